//! Feature gates: which there are, what opens them, which have an effect here.
//!
//! *Invariants.* A gate that was named itself is as it was named, whatever its class was set to.
//!
//! *Contract.* `pkg/featuregate` and `server/features` of etcd v3.7.1.

use super::Config;
use super::value::parse_bool;

/// The gates of 3.7.1, their classes and defaults.
pub(crate) const FEATURE_GATES: [(&str, &str, bool); 11] = [
    (ALL_ALPHA, "ALPHA", false),
    (ALL_BETA, "BETA", false),
    ("CompactHashCheck", "ALPHA", false),
    ("FastLeaseKeepAlive", "BETA", true),
    ("InitialCorruptCheck", "ALPHA", false),
    ("LeaseCheckpoint", "ALPHA", false),
    ("LeaseCheckpointPersist", "ALPHA", false),
    ("PriorityRequest", "ALPHA", false),
    ("SetMemberLocalAddr", "ALPHA", false),
    ("StopGRPCServiceOnDefrag", "ALPHA", false),
    ("TxnModeWriteWithSharedBuffer", "BETA", true),
];

const ALL_ALPHA: &str = "AllAlpha";
const ALL_BETA: &str = "AllBeta";

/// Gates that change nothing here, the value that is asked for in vain, and why.
const WITHOUT_EFFECT: [(&str, bool, &str); 3] = [
    (
        "StopGRPCServiceOnDefrag",
        true,
        "defragmenting stops nothing, so that there is nothing to keep clients from",
    ),
    (
        "PriorityRequest",
        true,
        "requests that revoke leases are refused at the same backlog as all others",
    ),
    ("TxnModeWriteWithSharedBuffer", false, "a transaction copies no buffer"),
];

/// Reads `NAME=true,NAME=false` on top of what was said before.
pub(super) fn set_feature_gates(config: &mut Config, text: &str) -> Result<(), String> {
    let mut named = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (gate, value) = match item.split_once('=') {
            Some((gate, value)) => (gate.trim(), value.trim()),
            None => return Err(format!("missing bool value for {}", item.trim())),
        };
        let on = parse_bool(value).map_err(|_| {
            format!(
                "invalid value of {gate}={value}, err: strconv.ParseBool: parsing {value:?}: \
                 invalid syntax"
            )
        })?;
        named.push((gate, on));
    }
    for (gate, _) in &named {
        if !FEATURE_GATES.iter().any(|(known, ..)| known == gate) {
            return Err(format!("unrecognized feature gate: {gate}"));
        }
    }
    for (gate, on) in &named {
        config.feature_gates.insert((*gate).to_owned(), *on);
    }
    for (gate, on) in named {
        let class = match gate {
            ALL_ALPHA => "ALPHA",
            ALL_BETA => "BETA",
            _ => continue,
        };
        for (gate, ..) in FEATURE_GATES.iter().filter(|(_, of, _)| *of == class) {
            config.feature_gates.entry((*gate).to_owned()).or_insert(on);
        }
    }
    Ok(())
}

impl Config {
    /// Whether a feature gate is open: as it was asked for, or as it is by default.
    pub(crate) fn gate(&self, name: &str) -> bool {
        let default = || FEATURE_GATES.iter().any(|(gate, _, on)| *gate == name && *on);
        self.feature_gates.get(name).copied().unwrap_or_else(default)
    }

    /// Gates that were asked for and change nothing here: the gate as it was set, and why.
    pub(crate) fn gates_without_effect(&self) -> impl Iterator<Item = (String, &'static str)> {
        WITHOUT_EFFECT.iter().filter_map(|&(gate, vain, why)| {
            let asked = self.feature_gates.get(gate) == Some(&vain);
            asked.then(|| (format!("{gate}={vain}"), why))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates(texts: &[&str]) -> Config {
        let mut config = Config::default();
        for text in texts {
            set_feature_gates(&mut config, text).expect("valid");
        }
        config
    }

    #[test]
    fn a_class_opens_what_was_not_named_itself() {
        let all = gates(&["AllAlpha=true,InitialCorruptCheck=false"]);
        assert!(all.gate("CompactHashCheck") && all.gate("SetMemberLocalAddr"));
        assert!(!all.gate("InitialCorruptCheck"));
        assert!(all.gate("FastLeaseKeepAlive"), "beta, and on by default");
        let none = gates(&["AllBeta=false"]);
        assert!(!none.gate("FastLeaseKeepAlive") && !none.gate("CompactHashCheck"));
        let later = gates(&["CompactHashCheck=true", "AllAlpha=false", "LeaseCheckpoint=true"]);
        assert!(later.gate("CompactHashCheck") && later.gate("LeaseCheckpoint"));
        assert!(!later.gate("InitialCorruptCheck"));
    }

    #[test]
    fn a_gate_without_effect_is_told() {
        let asked = gates(&["StopGRPCServiceOnDefrag=true,TxnModeWriteWithSharedBuffer=true"]);
        let told: Vec<_> = asked.gates_without_effect().map(|(gate, _)| gate).collect();
        assert_eq!(told, ["StopGRPCServiceOnDefrag=true"]);
    }
}
