# Turns pip's many lines into one that counts: used by `make setup`, before anything is installed.
function show(done, what) {
    if (!terminal && done % 50 && done < of) return
    width = 28
    filled = int(width * done / of)
    bar = sprintf("%*s", filled, ""); gsub(/ /, "=", bar)
    printf "%s%-34s [%s%*s] %d/%d", (terminal ? "\r" : ""), what, bar, width - filled, "", done, of
    if (!terminal) printf "\n"
    fflush()
}
/^(Collecting|Requirement already satisfied|Processing|Ignoring)/ {
    show(++n < of ? n : of, "installing pinned packages")
}
/^Installing collected/ { show(of, "unpacking them, half a minute") }
/^ERROR/ { failed = 1; printf "\n" }
failed { print }
END { printf "\n" }
