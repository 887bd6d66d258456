//! The parameters of a request.

use crate::percent;

/// Names and values, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands after the question mark; a pair that is malformed is left out.
    pub(super) fn of(text: Option<&str>) -> Self {
        let pairs = text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let read = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((unescape(name)?, unescape(value)?))
        };
        Self(pairs.filter_map(read).collect())
    }

    /// Whether a parameter is given, with any value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// Every value of a parameter that is not empty.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The first value of a parameter.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn unescape(text: &str) -> Option<String> {
    percent::decode_valid(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_as_go_does() {
        let query = Query::of(Some("verbose&exclude=a&exclude=b%20c&exclude=&bad=%zz&x=1=2"));
        assert!(query.has("verbose") && !query.has("bad"));
        assert_eq!(query.all("exclude").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(query.first("x"), Some("1=2"));
        assert_eq!(Query::of(None), Query::default());
    }
}
