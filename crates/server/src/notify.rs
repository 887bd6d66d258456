//! Tells systemd that the member serves.
//!
//! *Contract.* sd_notify(3): a datagram to the socket that `NOTIFY_SOCKET` names.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::log;

/// Says `READY=1` to whoever started the process, if it wants to know.
pub(crate) fn ready() {
    log::info("notifying init daemon").emit();
    match std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty()) {
        None => {}
        Some(path) => {
            if let Err(error) = send(&path) {
                log::error("failed to notify systemd for readiness").text("error", &error).emit();
                return;
            }
        }
    }
    log::info("successfully notified init daemon").emit();
}

fn send(path: &str) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_hears_that_we_are_ready() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.to_str().unwrap()).unwrap();
        let mut buffer = [0; 16];
        let received = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..received], b"READY=1");
    }
}
