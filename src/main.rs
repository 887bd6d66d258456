//! The one binary: dispatches to the server or to a tool, by its own name and its first word.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// Knows who asked for memory, if somebody wants to know (decision 014).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What to be.
#[derive(Debug, PartialEq, Eq)]
enum Product {
    Server,
    Ctl,
    Utl,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let (product, words) = choose(&name, words);
    match product {
        Product::Ctl => cli::ctl::main(words.into_iter()),
        Product::Utl => cli::utl::main(words.into_iter()),
        Product::Server => server::main(words),
    }
}

/// What the name and the first word ask for, and the words that are left.
fn choose(name: &OsString, mut words: Vec<OsString>) -> (Product, Vec<OsString>) {
    let name = Path::new(name).file_name().unwrap_or_default();
    let tools = [(Product::Ctl, "etcdctl", "ctl"), (Product::Utl, "etcdutl", "utl")];
    let is_tool = tools.iter().any(|(_, tool, _)| name == *tool);
    for (product, tool, word) in tools {
        if name == tool {
            return (product, words);
        }
        if !is_tool && words.first().is_some_and(|first| first == word) {
            words.remove(0);
            return (product, words);
        }
    }
    (Product::Server, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_first_word_choose_the_product() {
        for (name, word, product, left) in [
            ("quorate", "ctl", Product::Ctl, 0),
            ("/usr/bin/etcdctl", "get", Product::Ctl, 1),
            ("quorate", "utl", Product::Utl, 0),
            ("/usr/bin/etcdutl", "defrag", Product::Utl, 1),
            ("etcdutl", "ctl", Product::Utl, 1),
            ("etcd", "--name=a", Product::Server, 1),
            ("/opt/quorate", "--name=ctl", Product::Server, 1),
        ] {
            let (chosen, words) = choose(&name.into(), vec![word.into()]);
            assert_eq!((chosen, words.len()), (product, left), "{name} {word}");
        }
    }
}
