//! Texts as programs in Go write them, which users and scripts of etcd know.

use std::fmt::Display;
use std::io;

/// The system's words for an error: in lower case, and without the number that Rust adds.
pub fn error_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A list as `%q` shows it: `["one" "two"]`. For printable texts.
pub fn quoted_list<T: Display>(list: &[T]) -> String {
    let words: Vec<_> = list.iter().map(|word| format!("{:?}", word.to_string())).collect();
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_have_no_capital_and_no_number() {
        let missing = io::Error::from_raw_os_error(2);
        assert_eq!(error_text(&missing), "no such file or directory");
        assert_eq!(error_text(&io::Error::other("Own Words")), "own Words");
        assert_eq!(error_text(&io::Error::other("")), "");
    }

    #[test]
    fn lists_have_quotes_and_no_commas() {
        assert_eq!(quoted_list(&["one", "a \"b\""]), r#"["one" "a \"b\""]"#);
        assert_eq!(quoted_list::<String>(&[]), "[]");
    }
}
