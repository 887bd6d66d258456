//! How a handler that finds the data damaged stops the process.
//!
//! A read cannot go on where the database contradicts itself, and neither can the member: it would
//! answer other reads with what is wrong. The handler tells here, and `run` ends the process.

use std::sync::OnceLock;

use tokio::sync::mpsc;

static REPORTS: OnceLock<mpsc::Sender<String>> = OnceLock::new();

/// Where damage is told. Called once, by who ends the process.
pub(crate) fn listen() -> mpsc::Receiver<String> {
    let (reports, told) = mpsc::channel(1);
    // A second listener of one process, in a test, hears nothing.
    drop(REPORTS.set(reports));
    told
}

/// Tells of damage. Only the first one matters.
pub(crate) fn tell(damage: &store::Damage) {
    if let Some(reports) = REPORTS.get() {
        drop(reports.try_send(damage.to_string()));
    }
}
