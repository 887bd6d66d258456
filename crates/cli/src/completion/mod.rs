//! Lets a shell complete the words of a line: `completion SHELL` prints a script, which asks the
//! tool itself by the hidden command `__complete`.
//!
//! ```text
//!  etcdctl us<TAB> -> script -> etcdctl __complete us -> user, :4 -> etcdctl user
//! ```
//!
//! *Invariants.* `__complete` answers as etcd's tools do, so that the scripts that these print work
//! with ours, and ours with them.
//!
//! *Contract.* `completions.go` of cobra v1.10.2; `completion_command.go` of etcdctl and of
//! etcdutl v3.7.1.

mod answer;
mod scripts;

use crate::command::{Args, Command, Group};

pub(crate) use answer::{COMPLETE, COMPLETE_NAMES};

const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

const LONG: &str = "To load completions:

Bash:

  $ source <(etcdctl completion bash)

  # To load completions for each session, execute once:
  # Linux:
  $ etcdctl completion bash > /etc/bash_completion.d/etcdctl
  # macOS:
  $ etcdctl completion bash > /usr/local/etc/bash_completion.d/etcdctl

Zsh:

  # If shell completion is not already enabled in your environment,
  # you will need to enable it.  You can execute the following once:

  $ echo \"autoload -U compinit; compinit\" >> ~/.zshrc

  # To load completions for each session, execute once:
  $ etcdctl completion zsh > \"${fpath[1]}/_etcdctl\"

  # You will need to start a new shell for this setup to take effect.

fish:

  $ etcdctl completion fish | source

  # To load completions for each session, execute once:
  $ etcdctl completion fish > ~/.config/fish/completions/etcdctl.fish

PowerShell:

  PS> etcdctl completion powershell | Out-String | Invoke-Expression

  # To load completions for every new session, run:
  PS> etcdctl completion powershell > etcdctl.ps1
  # and source this file from your PowerShell profile.
";

/// The command of etcdctl.
pub(crate) static COMPLETION: Command = Command {
    name: "completion",
    usage: "[bash|zsh|fish|powershell]",
    short: "Generate completion script",
    long: LONG,
    group: Group::Utility,
    hides_flags: true,
    args: Args::OneOf(&SHELLS),
    run: Some(|call| Box::pin(async { scripts::print_script(call.root, &call.args[0]) })),
    ..Command::EMPTY
};

/// The same for a tool whose help is the usage alone.
pub(crate) static PLAIN_COMPLETION: Command = Command {
    name: "completion",
    usage: "[bash|zsh|fish|powershell]",
    short: "Generate completion script",
    hides_flags: true,
    args: Args::OneOf(&SHELLS),
    run: Some(|call| Box::pin(async { scripts::print_script(call.root, &call.args[0]) })),
    ..Command::EMPTY
};

#[cfg(test)]
mod tests;
