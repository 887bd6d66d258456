//! Opens and guards connections.
//!
//! ```text
//!  Listener ── accept ──► Gate (how many) ──► Lanes: one single-threaded runtime a core,
//!   tcp, unix                                  a connection stays on its lane for life
//!                                                └─ Accepted::open: TLS, where there is some
//!
//!  Dialer ── connect ──► TLS, where the URL asks for it
//!
//!  dns: where members are, by SRV records; places: whether two lists of URLs are the same
//! ```
//!
//! *Absent.* What is said on a connection: requests and protocols are `server`'s and `peer`'s.

mod dial;
pub mod dns;
mod lanes;
mod listener;
pub mod places;
mod stream;
pub mod tls;
pub mod url;

pub use dial::{Dialer, connect};
pub use lanes::{Lane, Lanes};
pub use listener::{
    Accepted, BindError, BindOptions, Gate, Listener, PEER_CONNECTIONS_MAX, TooFewDescriptors,
};
pub use stream::{PeerAddress, Stream};
pub use tls::PeerIdentity;
pub use url::{Scheme, Url, UrlError};
