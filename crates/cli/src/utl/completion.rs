//! `completion`: a script that lets a shell complete the words of a line.
//!
//! *Absent.* cobra's scripts, and the hidden command by which they ask the tool: ours know the
//! commands and flags themselves, and complete files where a command takes one.

use std::fmt::Write as _;

use crate::command::{Args, Call, Command, HELP, Kind, Running, inherited, local, names};
use crate::failure::Outcome;
use crate::output::print;

const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

pub(super) static COMPLETION: Command = Command {
    name: "completion",
    usage: "[bash|zsh|fish|powershell]",
    short: "Generate completion script",
    hides_flags: true,
    args: Args::OneOf(&SHELLS),
    run: Some(run),
    ..Command::EMPTY
};

fn run(call: &mut Call) -> Running<'_> {
    Box::pin(async { script(call.root, &call.args[0]) })
}

fn script(root: &'static Command, shell: &[u8]) -> Outcome {
    let places = places(&[root]);
    let name = root.name;
    let text = match shell {
        b"zsh" => {
            format!(
                "#compdef {name}\nautoload -U +X bashcompinit && bashcompinit\n{}",
                bash(name, &places)
            )
        }
        b"fish" => fish(name, &places),
        b"powershell" => powershell(name, &places),
        _ => bash(name, &places),
    };
    print(text.as_bytes())
}

/// A place in a line, named by the commands before it, and the words that may follow.
struct Place {
    path: String,
    commands: Vec<&'static str>,
    /// Flags with their dashes.
    flags: Vec<String>,
    /// Those of them that are followed by a value.
    with_value: Vec<String>,
}

impl Place {
    fn words(&self) -> String {
        let words = self.commands.iter().copied().chain(self.flags.iter().map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    }
}

/// The place behind the command at the end of `path`, and those behind its sub-commands.
fn places(path: &[&'static Command]) -> Vec<Place> {
    let command = path[path.len() - 1];
    let (mut flags, mut with_value) = (Vec::new(), Vec::new());
    for flag in local(path).into_iter().chain(inherited(path)).chain([&HELP]) {
        let short = flag.short.map(|short| format!("-{short}"));
        for word in short.into_iter().chain([format!("--{}", flag.name)]) {
            if flag.kind != Kind::Bool {
                with_value.push(word.clone());
            }
            flags.push(word);
        }
    }
    let commands = match command.args {
        Args::OneOf(words) => words.to_vec(),
        _ => command.commands.iter().map(|command| command.name).collect(),
    };
    let mut all = vec![Place { path: names(path).join(" "), commands, flags, with_value }];
    for child in command.commands {
        all.extend(places(&[path, &[*child]].concat()));
    }
    all
}

fn bash(name: &str, places: &[Place]) -> String {
    let mut out = format!(
        "_{name}() {{\n    local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" at={name} word skip=\n    \
         COMPREPLY=()\n    \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n        \
         if [[ -n $skip ]]; then skip=; continue; fi\n        \
         case \"$at $word\" in\n"
    );
    for place in places {
        if !place.with_value.is_empty() {
            let each: Vec<String> =
                place.with_value.iter().map(|flag| format!("\"{} {flag}\"", place.path)).collect();
            let _ = writeln!(out, "            {}) skip=1 ;;", each.join("|"));
        }
        if place.path != name {
            let _ = writeln!(out, "            \"{}\") at=\"$at $word\" ;;", place.path);
        }
    }
    out += "        esac\n    done\n    [[ -n $skip ]] && return\n    case \"$at\" in\n";
    for place in places {
        let _ = writeln!(
            out,
            "        \"{}\") COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")) ;;",
            place.path,
            place.words()
        );
    }
    let _ = write!(out, "    esac\n}}\ncomplete -o default -o bashdefault -F _{name} {name}\n");
    out
}

fn fish(name: &str, places: &[Place]) -> String {
    let mut out = String::new();
    for place in places {
        let before: Vec<&str> = place.path.split(' ').skip(1).collect();
        let mut condition = match before.as_slice() {
            [] => "__fish_use_subcommand".to_owned(),
            words => words
                .iter()
                .map(|word| format!("__fish_seen_subcommand_from {word}"))
                .collect::<Vec<_>>()
                .join("; and "),
        };
        if !before.is_empty() && !place.commands.is_empty() {
            let _ = write!(
                condition,
                "; and not __fish_seen_subcommand_from {}",
                place.commands.join(" ")
            );
        }
        if !place.commands.is_empty() {
            let words = place.commands.join(" ");
            let _ = writeln!(out, "complete -c {name} -f -n '{condition}' -a '{words}'");
        }
        for flag in &place.flags {
            let option = match flag.strip_prefix("--") {
                Some(long) => format!("-l {long}"),
                None => format!("-s {}", flag.trim_start_matches('-')),
            };
            let value = if place.with_value.contains(flag) { " -r" } else { "" };
            let _ = writeln!(out, "complete -c {name} -n '{condition}' {option}{value}");
        }
    }
    out
}

fn powershell(name: &str, places: &[Place]) -> String {
    let mut out = format!(
        "Register-ArgumentCompleter -Native -CommandName '{name}' -ScriptBlock {{\n    \
         param($wordToComplete, $commandAst, $cursorPosition)\n    $words = @{{\n"
    );
    for place in places {
        let words: Vec<String> = place.words().split(' ').map(|word| format!("'{word}'")).collect();
        let _ = writeln!(out, "        '{}' = @({})", place.path, words.join(", "));
    }
    let _ = write!(
        out,
        "    }}\n    $at = '{name}'\n    \
         foreach ($element in $commandAst.CommandElements | Select-Object -Skip 1) {{\n        \
         if ($words.ContainsKey(\"$at $element\")) {{ $at = \"$at $element\" }}\n    }}\n    \
         $words[$at] | Where-Object {{ $_ -like \"$wordToComplete*\" }} | ForEach-Object {{\n        \
         [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)\n    \
         }}\n}}\n"
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utl::ROOT;

    #[test]
    fn every_command_and_flag_is_in_every_script() {
        let places = places(&[&ROOT]);
        assert!(places.iter().any(|place| place.path == "etcdutl snapshot restore"));
        for text in [bash("etcdutl", &places), powershell("etcdutl", &places)] {
            for place in &places {
                assert!(text.contains(&place.path), "{}", place.path);
            }
            assert!(text.contains("--bump-revision") && text.contains("--write-out"));
        }
        let text = fish("etcdutl", &places);
        assert!(text.contains("-l bump-revision -r") && text.contains("-a 'restore status'"));
    }
}
