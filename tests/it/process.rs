//! Runs the binary.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test, without an environment of its own.
pub(crate) fn quorate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    quorate(arguments).output().unwrap()
}

/// A member that serves.
pub(crate) struct Server {
    child: Child,
    lines: Receiver<Value>,
    pub(crate) client: String,
    pub(crate) peer: String,
}

impl Server {
    /// Starts a member on free ports, and waits until it serves.
    pub(crate) fn start(directory: &Path, flags: &[&str]) -> Self {
        let data = format!("--data-dir={}", directory.join("m.etcd").display());
        let own = [
            "--name=m",
            &data,
            "--listen-client-urls=http://127.0.0.1:0",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:0",
        ];
        let mut server = Self::begin(&[&own[..], flags].concat());
        server.serving();
        server
    }

    /// Starts a member with these flags.
    pub(crate) fn begin(flags: &[&str]) -> Self {
        let mut child = quorate(flags).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Invariant of the log: every line is one JSON object.
                let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, client: String::new(), peer: String::new() }
    }

    /// Waits until it serves clients.
    pub(crate) fn serving(&mut self) {
        self.peer = address(&self.line("serving peer traffic"));
        self.client = address(&self.line("serving client traffic insecurely"));
    }

    /// Waits until the process ends by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the process goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for a line whose message begins so.
    pub(crate) fn line(&self, msg: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect(msg);
            assert!(line.is_object(), "not a log line: {line}");
            for field in ["level", "ts", "caller", "msg"] {
                assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{line}");
            }
            if line["msg"].as_str().unwrap().starts_with(msg) {
                return line;
            }
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }

    /// Runs a command of the tool against this member, and returns what it prints.
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        let endpoint = format!("--endpoints={}", self.client);
        let output = run(&[&["ctl", &endpoint], words].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn address(line: &Value) -> String {
    line["address"].as_str().unwrap().to_owned()
}
