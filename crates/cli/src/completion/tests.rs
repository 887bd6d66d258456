//! What lines are completed to, and that the scripts of each shell ask for it.

use super::answer::{Directive, complete};
use super::scripts::script;
use crate::command::Arg;
use crate::{ctl, utl};

/// The words that may follow, and a `:` in front where files may follow, too.
fn follow(line: &[&str]) -> String {
    let line: Vec<Arg> = line.iter().map(|word| word.as_bytes().to_vec()).collect();
    match complete(&utl::ROOT, &line) {
        Ok((words, directive)) => {
            let words: Vec<String> = words.into_iter().map(|word| word.text).collect();
            let files = if directive == Directive::Default { ":" } else { "" };
            files.to_owned() + &words.join(" ")
        }
        Err(reason) => format!("! {reason}"),
    }
}

#[test]
fn what_follows_depends_on_what_is_there() {
    for (line, words) in [
        (&[""][..], "completion defrag hashkv help migrate snapshot version"),
        (&["sn"], "snapshot"),
        (&["snapshot", ""], "restore status"),
        (&["snap", "st"], "status"),
        (&["snapshot", "status", ""], ":"),
        (&["completion", "f"], "fish"),
        (&["completion", "fish", ""], ":"),
        (&["help", "snapshot", "r"], "restore"),
        // What is required comes first.
        (&["migrate", ""], ":--data-dir --target-version"),
        (&["migrate", "--data-dir", "x", "--"], "--target-version"),
        (&["hashkv", "--r"], "--rev"),
        (&["hashkv", "-"], "--timeout --write-out -w --help -h --rev"),
        (&["hashkv", "--rev", "1", "--re"], ""),
        (&["hashkv", "--rev", ""], ":"),
        (&["-w", "j"], ":fields json protobuf simple table"),
        (&["-w=j"], ":fields json protobuf simple table"),
        (&["hashkv", "--", "-"], ":"),
        (&["hashkv", "-h", ""], ""),
        (&["nosuch", ""], "! unable to find a command for arguments: [nosuch]"),
        (&["hashkv", "-x="], "! Subcommand 'hashkv' does not support flag 'x'"),
        (
            &["hashkv", "--nosuch", ""],
            "! Error while parsing flags from args [--nosuch]: unknown flag: --nosuch",
        ),
        (
            &["hashkv", "--rev=x", ""],
            "! Error while parsing flags from args [--rev=x]: invalid argument \"x\" for \"--rev\" \
             flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
    ] {
        assert_eq!(follow(line), words, "{line:?}");
    }
}

#[test]
fn every_script_names_the_tool_and_asks_it() {
    for root in [&ctl::ROOT, &utl::ROOT] {
        for shell in ["bash", "zsh", "fish"] {
            let text = script(root, shell.as_bytes());
            assert!(text.contains(" __complete") && text.contains(root.name), "{text}");
            assert!(!text.contains("TOOL"), "{text}");
        }
    }
    let text = script(&ctl::ROOT, b"powershell");
    for words in ["'etcdctl user add' = @(", "'--new-user-password'", "'-w', '--write-out'"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
}
