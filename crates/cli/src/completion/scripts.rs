//! The scripts that `completion` prints.
//!
//! *Invariants.* No script runs what stands in the line but the tool itself, and none needs another
//! package of the shell.
//!
//! *Absent.* cobra's scripts. Windows PowerShell drops empty arguments, so that script cannot ask
//! what may follow a blank: it knows commands and flags itself.

use std::fmt::Write as _;

use crate::command::{Args, Command, HELP, inherited, local, names};
use crate::failure::Outcome;
use crate::output::print;

/// Prints the script of a shell.
pub(super) fn print_script(root: &'static Command, shell: &[u8]) -> Outcome {
    print(script(root, shell).as_bytes())
}

pub(super) fn script(root: &'static Command, shell: &[u8]) -> String {
    match shell {
        b"zsh" => ZSH.replace("TOOL", root.name),
        b"fish" => FISH.replace("TOOL", root.name),
        b"powershell" => powershell(root.name, &places(&[root])),
        _ => BASH.replace("TOOL", root.name),
    }
}

/// Bash takes words apart at `=` and `:`, which stand in flags and addresses, and wants the last
/// part alone to be completed.
const BASH: &str = r#"# bash completion for TOOL
_TOOL() {
    local index last out directive word current="${COMP_WORDS[COMP_CWORD]}" words=()
    COMPREPLY=()
    for ((index = 1; index <= COMP_CWORD; index++)); do
        last=$((${#words[@]} - 1))
        if ((index > 1)) && [[ ${COMP_WORDS[index]} == [=:]* || ${COMP_WORDS[index-1]} == *[=:] ]]; then
            words[last]+="${COMP_WORDS[index]}"
        else
            words+=("${COMP_WORDS[index]}")
        fi
    done
    out=$(eval "${COMP_WORDS[0]}"' __completeNoDesc "${words[@]}"' 2>/dev/null) || return
    directive="${out##*:}"
    [[ $current == [=:] ]] && current=
    while IFS= read -r word; do
        [[ -n $word && $word == "$current"* ]] && COMPREPLY+=("$word")
    done <<< "${out%:*}"
    if ((directive & 4)); then
        compopt +o default 2>/dev/null
    fi
    return 0
}
complete -o default -F _TOOL TOOL
"#;

const ZSH: &str = r#"#compdef TOOL
# zsh completion for TOOL
_TOOL() {
    local out directive line
    local -a found
    out=$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null) || return
    for line in "${(@f)out}"; do
        case "$line" in
            :*) directive="${line#:}" ;;
            *$'	'*) found+=("${${line%%$'	'*}//:/\:}:${line#*$'	'}") ;;
            ?*) found+=("${line//:/\:}") ;;
        esac
    done
    [[ "${words[CURRENT]}" == -*=* ]] && compset -P '*='
    if (( ${#found} )); then
        _describe 'completions' found
    elif (( ! (directive & 4) )); then
        _files
    fi
}
if [[ "${funcstack[1]}" == _TOOL ]]; then
    _TOOL "$@"
else
    compdef _TOOL TOOL
fi
"#;

const FISH: &str = r#"# fish completion for TOOL
function __TOOL_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l out ($words[1] __complete $words[2..] "$current" 2>/dev/null)
    or return
    # The value of a flag is completed together with its name.
    set -l before (string match -r -- '^-[^=]*=' $current)
    set -l directive (string sub -s 2 -- $out[-1])
    set -e out[-1]
    if test (count $out) -gt 0
        for line in $out
            printf '%s%s
' "$before" $line
        end
    else if test "$directive" = 0
        __fish_complete_path "$current"
    end
end
complete -c TOOL -e
complete -c TOOL -f -a '(__TOOL_complete)'
"#;

/// A place in a line, named by the commands before it, and the words that may follow.
struct Place {
    path: String,
    commands: Vec<&'static str>,
    /// Flags with their dashes.
    flags: Vec<String>,
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
    let mut flags = Vec::new();
    for flag in local(path).into_iter().chain(inherited(path)).chain([&HELP]) {
        flags.extend(flag.short.map(|short| format!("-{short}")));
        flags.push(format!("--{}", flag.name));
    }
    let commands = match command.args {
        Args::OneOf(words) => words.to_vec(),
        _ => command.commands.iter().filter(|c| !c.hidden).map(|command| command.name).collect(),
    };
    let mut all = vec![Place { path: names(path).join(" "), commands, flags }];
    for child in command.commands.iter().filter(|child| !child.hidden) {
        all.extend(places(&[path, &[*child]].concat()));
    }
    all
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
