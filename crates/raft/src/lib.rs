//! Decides by consensus, and performs nothing.
