//! Flags in every form, and wrong ones.

use super::*;

static FLAGS: [Flag; 4] = [
    Flag::bool("prefix", "").short('p'),
    Flag::int("limit", "").short('l'),
    Flag::new("endpoints", Kind::Words, "a,b", ""),
    Flag::new("timeout", Kind::Duration, "5s", ""),
];

fn line(text: &str) -> Vec<Arg> {
    text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect()
}

fn parsed(text: &str) -> Result<(Values, Vec<Arg>), String> {
    parse_flags(&FLAGS.iter().collect::<Vec<_>>(), line(text))
}

#[test]
fn flags_are_read_in_every_form() {
    let (values, rest) =
        parsed("x -pl5 --endpoints=c --timeout 1m y --endpoints d -- --z").unwrap();
    assert!(values.bool("prefix"));
    assert_eq!(values.int("limit"), 5);
    assert_eq!(values.words("endpoints"), ["c", "d"]);
    assert_eq!(values.duration("timeout"), Duration::from_secs(60));
    assert_eq!(rest, line("x y --z"));
    let (values, _) = parsed("--prefix=F -l=0x10").unwrap();
    assert!(!values.bool("prefix"));
    assert_eq!(values.int("limit"), 16);
    assert_eq!(values.words("endpoints"), ["a", "b"]);
    assert_eq!(values.show("timeout"), "5s");
}

#[test]
fn wrong_flags_are_told_as_pflag_tells_them() {
    for (text, error) in [
        ("--nosuch", "unknown flag: --nosuch"),
        ("-px", "unknown shorthand flag: 'x' in -x"),
        ("--limit", "flag needs an argument: --limit"),
        ("-pl", "flag needs an argument: 'l' in -l"),
        ("--=x", "bad flag syntax: --=x"),
        (
            "-l abc",
            "invalid argument \"abc\" for \"-l, --limit\" flag: \
             strconv.ParseInt: parsing \"abc\": invalid syntax",
        ),
        (
            "--prefix=foo",
            "invalid argument \"foo\" for \"-p, --prefix\" flag: \
             strconv.ParseBool: parsing \"foo\": invalid syntax",
        ),
    ] {
        assert_eq!(parsed(text).err().as_deref(), Some(error));
    }
}

#[test]
fn endpoints_may_be_quoted() {
    assert_eq!(go::split_csv("a,\"b,c\"\"d\",,e"), ["a", "b,c\"d", "", "e"]);
    assert!(go::split_csv("").is_empty());
}
