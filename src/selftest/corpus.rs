//! The corpus: what is sent, why, and what must become of it, as `tests/corpus/*.toml` say. Its README has the format.

use std::fmt;

use thiserror::Error;
use toml_edit::{Document, TableLike, Value};

use super::request::Request;

/// The files of `tests/corpus/` with what is in them, in the order in which they are sent.
pub const FILES: [(&str, &str); 6] = [
    ("paths.toml", include_str!("../../tests/corpus/paths.toml")),
    ("hosts.toml", include_str!("../../tests/corpus/hosts.toml")),
    ("headers.toml", include_str!("../../tests/corpus/headers.toml")),
    ("credentials.toml", include_str!("../../tests/corpus/credentials.toml")),
    ("redirects.toml", include_str!("../../tests/corpus/redirects.toml")),
    ("honest.toml", include_str!("../../tests/corpus/honest.toml")),
];

/// The sets of rules that every case is expected under, by the names of their files in `tests/corpus/rules/`.
pub const RULES: [&str; 3] = ["public_site_with_protected_admin", "all_protected_with_public_assets", "hosts_and_groups"];

/// Every attack and every honest request.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// What must not get further than it may.
    pub attacks: Vec<Case>,
    /// What must not be refused.
    pub honest: Vec<Case>,
}

impl Corpus {
    /// The corpus that this binary was built with.
    pub fn embedded() -> Result<Self, CorpusError> {
        Self::read(FILES)
    }

    /// The corpus in these files: their names, for what is wrong with them, and their texts.
    pub fn read<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>) -> Result<Self, CorpusError> {
        let mut corpus = Self { attacks: Vec::new(), honest: Vec::new() };
        for (file, text) in files {
            corpus.add(text).map_err(|problem| CorpusError { file: file.to_owned(), problem })?;
        }
        Ok(corpus)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let document = Document::parse(text).map_err(|error| error.to_string())?;
        let groups = document.get("group").and_then(|item| item.as_array_of_tables()).ok_or("no [[group]]")?;
        for group in groups {
            check_keys(group, &KEYS_OF_GROUPS)?;
            for (key, to) in [("attacks", &mut self.attacks), ("honest", &mut self.honest)] {
                for case in group.get(key).and_then(|item| item.as_array()).into_iter().flatten() {
                    let case = case.as_inline_table().ok_or_else(|| format!("{key}: a case is a table in braces"))?;
                    to.push(Case::read(case, group)?);
                }
            }
        }
        Ok(())
    }
}

/// A file of the corpus that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}: {problem}")]
pub struct CorpusError {
    file: String,
    problem: String,
}

/// One request and what must become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name in reports; no two have the same.
    pub id: String,
    /// What kind of attack it is.
    pub family: String,
    /// What it tries, in a few words.
    pub about: String,
    /// Where it comes from: an advisory, a section of an RFC, a row of `docs/security.md`.
    pub source: String,
    /// Who sends it.
    pub who: Who,
    /// What is sent.
    pub request: Request,
    /// What must become of it under each of [`RULES`].
    pub expected: [Expected; 3],
    /// Whether the status is the same under any rules whatsoever.
    pub anywhere: bool,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Somebody without credentials of ours, or with those that the case spells out itself.
    Visitor,
    /// A person in no group, with a token in `Authorization`.
    Member,
    /// The same person, with the cookie of a browser.
    Browser,
    /// A person in the group `admins`, with a token in `Authorization`.
    Admin,
}

/// What must become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This status, and nothing reaches an application.
    Stays(u16),
    /// It reaches the application, once, in exactly this form.
    Passes(Arrival),
    /// The sign-in page, from which the way leads here; nothing reaches an application.
    Leads(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stays(status) => write!(f, "{status}"),
            Self::Passes(_) => f.write_str("pass"),
            Self::Leads(to) => write!(f, "leads to {to}"),
        }
    }
}

/// What an application gets of a request, beside what nullpass says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The request line's target, to the byte.
    pub target: String,
    /// `Host`.
    pub host: String,
    /// Every other field line of the client's that is there, and nothing else may be.
    pub fields: Vec<String>,
    /// Whether the sender is announced.
    pub announced: bool,
}

/// What a case may say, and its group for all of its cases.
const KEYS: [&str; 18] = [
    "family",
    "about",
    "source",
    "as",
    "method",
    "target",
    "host",
    "headers",
    "body",
    "raw",
    "rd",
    "expect",
    "there",
    "there_host",
    "arrives",
    "hosts_arrives",
    "announced",
    "leads",
];

/// What a group alone may say.
const KEYS_OF_GROUPS: [&str; 2] = ["attacks", "honest"];

/// What a case alone may say.
const KEYS_OF_CASES: [&str; 2] = ["id", "no_host"];

impl Case {
    /// A case; what it does not say, its group says.
    fn read(case: &dyn TableLike, group: &dyn TableLike) -> Result<Self, String> {
        let id = case.get("id").and_then(|item| item.as_str()).ok_or("a case without an id")?.to_owned();
        Self::read_named(&id, case, group).map_err(|problem| format!("{id}: {problem}"))
    }

    fn read_named(id: &str, case: &dyn TableLike, group: &dyn TableLike) -> Result<Self, String> {
        check_keys(case, &KEYS_OF_CASES)?;
        let given = |key: &str| case.get(key).or_else(|| group.get(key));
        let text = |key: &str| match given(key) {
            None => Ok(None),
            Some(item) => item.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| format!("{key} is no text")),
        };
        let needed = |key: &str| text(key)?.filter(|text| !text.is_empty()).ok_or_else(|| format!("no {key}"));
        let lines = |key: &str| match given(key) {
            None => Ok(None),
            Some(item) => {
                item.as_array().and_then(|lines| texts(lines.iter())).map(Some).ok_or_else(|| format!("{key} is no list of texts"))
            }
        };
        let who = match text("as")?.as_deref() {
            None | Some("visitor") => Who::Visitor,
            Some("member") => Who::Member,
            Some("browser") => Who::Browser,
            Some("admin") => Who::Admin,
            Some(other) => return Err(format!("as = {other:?}: visitor, member, browser or admin")),
        };
        let no_host = case.get("no_host").and_then(toml_edit::Item::as_bool).unwrap_or(false);
        let host = text("host")?.unwrap_or_else(|| "app.example.com".to_owned());
        let fields = lines("headers")?.unwrap_or_default();
        let request = Request {
            method: text("method")?.unwrap_or_else(|| "GET".to_owned()),
            target: text("target")?.unwrap_or_else(|| "/public/a".to_owned()),
            host: (!no_host).then(|| host.clone()),
            fields: fields.clone(),
            body: text("body")?.unwrap_or_default(),
            raw: text("raw")?,
            rd: text("rd")?,
        };
        let there = text("there")?.unwrap_or_else(|| request.target.clone());
        let arrival = |fields: Vec<String>| Arrival {
            target: there.clone(),
            host: text("there_host").ok().flatten().unwrap_or_else(|| host.clone()),
            fields,
            announced: given("announced").and_then(toml_edit::Item::as_bool).unwrap_or(who != Who::Visitor),
        };
        let arrives = lines("arrives")?.unwrap_or(fields);
        let of_hosts = lines("hosts_arrives")?.unwrap_or_else(|| arrives.clone());
        let leads = text("leads")?;
        let expect = match given("expect") {
            None if leads.is_some() => vec!["leads".to_owned()],
            None => return Err("no expect".to_owned()),
            Some(item) => match (item.as_str(), item.as_array().and_then(|all| texts(all.iter()))) {
                (Some(one), _) => vec![one.to_owned()],
                (None, Some(all)) if all.len() == RULES.len() => all,
                (None, _) => return Err("expect is one text, or one for each set of rules".to_owned()),
            },
        };
        let mut anywhere = false;
        let mut each = expect.iter().cycle().zip([&arrives, &arrives, &of_hosts]).map(|(word, arrives)| match word.as_str() {
            "pass" => Ok(Expected::Passes(arrival(arrives.clone()))),
            "leads" => leads.clone().map(Expected::Leads).ok_or_else(|| "no leads".to_owned()),
            word => {
                let status = word.strip_suffix(" anywhere");
                anywhere |= status.is_some();
                let status = status.unwrap_or(word).parse().map_err(|_| format!("expect = {word:?}: pass or a status"))?;
                Ok(Expected::Stays(status))
            }
        });
        let mut next = || each.next().unwrap_or_else(|| Err("no expect".to_owned()));
        let expected = [next()?, next()?, next()?];
        Ok(Self {
            id: id.to_owned(),
            family: needed("family")?,
            about: needed("about")?,
            source: needed("source")?,
            who,
            request,
            expected,
            anywhere,
        })
    }
}

/// Refuses a key that is none of [`KEYS`] and none of `own`.
fn check_keys(table: &dyn TableLike, own: &[&str]) -> Result<(), String> {
    match table.iter().find(|(key, _)| !KEYS.contains(key) && !own.contains(key)) {
        None => Ok(()),
        Some((key, _)) => Err(format!("unknown key {key}")),
    }
}

fn texts<'v>(values: impl Iterator<Item = &'v Value>) -> Option<Vec<String>> {
    values.map(|value| value.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Corpus, String> {
        let mut corpus = Corpus { attacks: Vec::new(), honest: Vec::new() };
        corpus.add(text).map(|()| corpus)
    }

    #[test]
    fn a_case_says_what_its_group_does_not() {
        let corpus = read(
            "[[group]]\nfamily = \"f\"\nsource = \"s\"\nexpect = \"400 anywhere\"\nattacks = [\n{ id = \"a\", about = \"x\", target = \"/..\" },\n\
             { id = \"b\", about = \"y\", expect = [\"pass\", \"401\", \"403\"], headers = [\"A: b\"], arrives = [], as = \"member\" },\n]\n",
        )
        .unwrap();
        let [first, second] = &corpus.attacks[..] else { panic!("{corpus:?}") };
        assert_eq!((first.anywhere, &first.expected[2], first.request.target.as_str()), (true, &Expected::Stays(400), "/.."));
        let arrival = Arrival { target: "/public/a".to_owned(), host: "app.example.com".to_owned(), fields: Vec::new(), announced: true };
        assert_eq!(second.expected, [Expected::Passes(arrival), Expected::Stays(401), Expected::Stays(403)]);
        assert_eq!((second.anywhere, second.who, second.source.as_str()), (false, Who::Member, "s"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (group, problem) in [
            ("attacks = [{ id = \"a\" }]", "a: no expect"),
            ("expect = \"400\"\nattacks = [{ id = \"a\", abuot = \"x\" }]", "a: unknown key abuot"),
            ("expect = \"yes\"\nattacks = [{ id = \"a\" }]", "a: expect = \"yes\": pass or a status"),
            ("expect = [\"400\"]\nattacks = [{ id = \"a\" }]", "a: expect is one text, or one for each set of rules"),
            ("expect = \"400\"\nas = \"me\"\nattacks = [{ id = \"a\" }]", "a: as = \"me\": visitor, member, browser or admin"),
            ("expect = \"400\"\nattacks = [{ about = \"a\" }]", "a case without an id"),
            ("expct = \"400\"", "unknown key expct"),
        ] {
            assert_eq!(read(&format!("[[group]]\n{group}\n")).unwrap_err(), problem);
        }
        assert_eq!(read("x = 1").unwrap_err(), "no [[group]]");
    }
}
