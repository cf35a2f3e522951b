# Turns pip's many lines into one that counts: used by `make setup`, before anything is installed.
function show(done, what) {
    width = 28
    filled = int(width * done / of)
    if (filled > width) filled = width
    bar = sprintf("%*s", filled, ""); gsub(/ /, "=", bar)
    rest = sprintf("%*s", width - filled, "")
    printf "\r%-34s [%s%s] %d/%d", what, bar, rest, done, of
    fflush()
}
/^(Collecting|Requirement already satisfied)/ { show(++n < of ? n : of, "installing pinned packages") }
/^Installing collected/ { show(of, "unpacking them, half a minute") }
/^ERROR/ { failed = 1; printf "\n" }
failed { print }
END { printf "\n" }
