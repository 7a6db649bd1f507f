"""What a user may ask: every verb's inputs, declared once, without torch. Flags, files, keywords and help derive from
them."""
