//! Opens and guards connections.
