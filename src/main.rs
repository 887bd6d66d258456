//! The one binary: dispatches to the server or to a tool, by its own name and its first word.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// What to be.
#[derive(Debug, PartialEq, Eq)]
enum Product {
    Server,
    Ctl,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let (product, words) = choose(&name, words);
    match product {
        Product::Ctl => cli::ctl::main(words.into_iter()),
        Product::Server => {
            let words: Vec<String> =
                words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            server::main(&words)
        }
    }
}

/// What the name and the first word ask for, and the words that are left.
fn choose(name: &OsString, mut words: Vec<OsString>) -> (Product, Vec<OsString>) {
    if Path::new(name).file_name().is_some_and(|name| name == "etcdctl") {
        return (Product::Ctl, words);
    }
    if words.first().is_some_and(|word| word == "ctl") {
        words.remove(0);
        return (Product::Ctl, words);
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
            ("etcd", "--name=a", Product::Server, 1),
            ("/opt/quorate", "--name=ctl", Product::Server, 1),
        ] {
            let (chosen, words) = choose(&name.into(), vec![word.into()]);
            assert_eq!((chosen, words.len()), (product, left), "{name} {word}");
        }
    }
}
