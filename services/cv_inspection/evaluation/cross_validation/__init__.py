"""Cross-validation on folders of real images: whole parts are held out."""
