//! What an answer from an instance with rules of its own says. The corpus' expectations under its three sets of rules say
//! nothing there; what holds anywhere does, and beyond that an attack may not be let through where the plain form of what it
//! asks for is refused.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use super::answer::Answer;
use super::corpus::{Case, Expected};
use super::request::{Request, Values};
use crate::policy::host::Host;
use crate::policy::path;

/// What became of a request, as far as an outsider can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// nullpass, or a server in front of it, said no.
    Refused(u16),
    /// It reached an application, or what an application would be asked for is there for everybody.
    Passed(u16),
}

impl Outcome {
    /// Tells whose answer this is. Ours to programs say `requestId`; no other server's 404 does.
    pub(super) fn of(answer: &Answer, prefix: &str) -> Self {
        let own_words = answer.status >= 400 && answer.text().contains("\"requestId\"");
        let sign_in = answer.location.as_deref().is_some_and(|to| to.starts_with(&format!("{prefix}/login")));
        match answer.status {
            // From behind: it got there.
            502 | 504 => Self::Passed(answer.status),
            0 | 400 | 401 | 403 | 405 | 408 | 411 | 413 | 414 | 417 | 421 | 425 | 426 | 429 | 431 | 501 | 503 | 505 => {
                Self::Refused(answer.status)
            }
            300..=399 if sign_in => Self::Refused(answer.status),
            status if own_words => Self::Refused(status),
            status => Self::Passed(status),
        }
    }
}

/// The plain forms of what a request asks for: the same method and body, one of the paths that its own can mean written
/// without any of what makes it doubtful, the host in its one spelling, and no field, all as they are to be sent. None: it has
/// no plain form.
pub(super) fn plain_forms(request: &Request, values: &Values) -> Vec<Request> {
    let Ok(target) = String::from_utf8(request.target(values)) else { return Vec::new() };
    let origin = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find(['/', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or("/").to_owned(),
        Some(_) | None => target,
    };
    let origin = origin.split('#').next().unwrap_or_default();
    let (raw, query) = origin.split_once('?').map_or((origin, None), |(raw, query)| (raw, Some(query)));
    let host = request.host.as_deref().and_then(|host| String::from_utf8(values.bytes(host)).ok());
    let Some((host, _)) = host.and_then(|host| Host::parse(&host).ok()) else { return Vec::new() };
    let Ok(readings) = path::read(if raw.is_empty() { "/" } else { raw }) else { return Vec::new() };
    let mut forms = Vec::new();
    let collected = readings.agree(|reading| {
        let plain: String = utf8_percent_encode(reading, PLAIN).collect();
        if path::read(&plain).is_ok_and(|again| is_one(&again) && again.shown() == reading) {
            forms.push(Request {
                method: request.method.to_ascii_uppercase(),
                target: query.map_or_else(|| plain.clone(), |query| format!("{plain}?{query}")),
                host: Some(host.to_string()),
                fields: Vec::new(),
                body: String::from_utf8_lossy(&values.bytes(&request.body)).into_owned(),
                raw: None,
                rd: None,
            });
        }
    });
    if collected.is_ok() { forms } else { Vec::new() }
}

fn is_one(readings: &path::Readings<'_>) -> bool {
    match readings {
        path::Readings::Plain(_) => true,
        path::Readings::Many(all) => all.len() == 1,
    }
}

/// What a path holds unescaped (RFC 3986, section 3.3), without `;`.
const PLAIN: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'^')
    .add(b'|')
    .add(b'[')
    .add(b']')
    .add(b'\\')
    .add(b';');

/// What is wrong with the answer to an attack; `None`: nothing that can be seen. `plain`: what became of its plain forms.
pub(super) fn surprise(case: &Case, answer: &Answer, plain: &[(String, Outcome)], place: &Place<'_>) -> Option<String> {
    let outcome = Outcome::of(answer, place.prefix);
    if let Some(to) = answer.location.as_deref().filter(|to| leads_away(to)) {
        return Some(format!("answered with a way to {to}"));
    }
    match &case.expected {
        [Expected::Leads(to), ..] => misled(to, answer, place),
        // A connection that ends without a word says what 400 says.
        [Expected::Stays(status), ..] if case.anywhere => (answer.status != *status && !(answer.status == 0 && *status == 400))
            .then(|| format!("answered {} where it must be {status} whatever the rules are", answer.status)),
        [Expected::Stays(_) | Expected::Passes(_), ..] => let_through(case, answer, outcome, plain),
    }
}

fn let_through(case: &Case, answer: &Answer, outcome: Outcome, plain: &[(String, Outcome)]) -> Option<String> {
    let Outcome::Passed(status) = outcome else { return None };
    if case.request.fields.iter().any(|line| line.contains(FORGED)) && answer.text().contains(FORGED) {
        return Some("a forged value came back in the answer".to_owned());
    }
    let refused = plain.iter().find_map(|(target, outcome)| match outcome {
        Outcome::Refused(status) => Some((target, status)),
        Outcome::Passed(_) => None,
    });
    refused.map(|(target, refused)| format!("answered {status}, though {target} is refused with {refused}"))
}

/// What is wrong with the answer to an honest request: it is refused although its plain form is not.
pub(super) fn refusal(answer: &Answer, plain: &[(String, Outcome)], place: &Place<'_>) -> Option<String> {
    let status = match Outcome::of(answer, place.prefix) {
        Outcome::Refused(status @ (0 | 400 | 414 | 421 | 431)) => status,
        Outcome::Refused(_) | Outcome::Passed(_) => return None,
    };
    let passes = !plain.is_empty() && plain.iter().all(|(_, outcome)| matches!(outcome, Outcome::Passed(_)));
    passes.then(|| format!("an honest request was refused with {status}"))
}

/// Where the instance is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The prefix of its own routes.
    pub(super) prefix: &'a str,
    /// Its host.
    pub(super) host: &'a str,
}

/// Where the sign-in page would lead, if that is not where it should and not on this host either: an instance whose cookie is
/// for a whole domain may lead to other addresses of that.
fn misled(to: &str, answer: &Answer, place: &Place<'_>) -> Option<String> {
    if answer.status != 200 {
        return Some(format!("the sign-in page answered {}", answer.status));
    }
    let page = answer.text();
    let ways: Vec<String> = page.split("name=\"rd\" value=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(unescaped).collect();
    let own_page = format!("{}/login", place.prefix);
    let is_here = |way: &String| {
        way == to
            || way.starts_with(&own_page)
            || Url::parse(way).is_ok_and(|url| url.host_str() == Some(place.host) && url.username().is_empty())
    };
    if ways.is_empty() {
        return Some("the sign-in page has no form that leads anywhere".to_owned());
    }
    ways.iter().find(|way| !is_here(way)).map(|way| format!("the sign-in page leads to {way}, not to {to}"))
}

/// Whether a `Location` leads to one of the corpus' own hosts of attackers, as a browser reads it.
fn leads_away(location: &str) -> bool {
    let base = Url::parse("http://nullpass.invalid/").ok();
    let url = base.and_then(|base| base.join(location).ok());
    url.is_some_and(|url| {
        url.host_str().is_some_and(|host| host.ends_with("evil.example")) || matches!(url.scheme(), "javascript" | "data")
    })
}

/// In every value that claims to be somebody.
const FORGED: &str = "forged.example";

/// The few entities that our templates write.
fn unescaped(text: &str) -> String {
    let entities = [
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#38;", "&"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(text.to_owned(), |text, (entity, letter)| text.replace(entity, letter))
}

#[cfg(test)]
mod tests {
    use super::super::corpus::Corpus;
    use super::*;

    const HERE: Place<'_> = Place { prefix: "/_auth", host: "127.0.0.1" };

    fn answer(status: u16, location: Option<&str>, body: &str) -> Answer {
        Answer { status, location: location.map(str::to_owned), body: body.as_bytes().to_vec() }
    }

    fn forms(target: &str) -> Vec<String> {
        let case = Corpus::embedded().unwrap().attacks.swap_remove(0);
        let request = Request { target: target.to_owned(), ..case.request };
        plain_forms(&request, &Values::default()).into_iter().map(|form| form.target).collect()
    }

    fn attack(id: &str) -> Case {
        Corpus::embedded().unwrap().attacks.into_iter().find(|case| case.id == id).unwrap()
    }

    #[test]
    fn plain_forms_are_those_that_mean_one_thing() {
        assert_eq!(forms("/admin%2Fx?a#b"), ["/admin/x?a"]);
        assert_eq!(forms("/%61dmin/x"), ["/admin/x"]);
        // Some read a host in front of the path.
        assert_eq!(forms("//admin/x"), ["/admin/x", "/x"]);
        assert_eq!(forms("/admin;a=b/x"), ["/admin/x"]);
        assert_eq!(forms("http://app.example.com/admin/x"), ["/admin/x"]);
        assert_eq!(forms("/a%20b"), ["/a%20b"]);
        assert!(forms("/public/../x").is_empty() && forms("*").is_empty());
    }

    #[test]
    fn whose_answer_it_is_can_be_told() {
        for (status, location, body, expected) in [
            (401, None, "", Outcome::Refused(401)),
            (0, None, "", Outcome::Refused(0)),
            (302, Some("/_auth/login?rd=%2F"), "", Outcome::Refused(302)),
            (302, Some("/elsewhere"), "", Outcome::Passed(302)),
            (404, None, "{\"code\":\"no_upstream\",\"requestId\":\"x\"}", Outcome::Refused(404)),
            (404, None, "not found", Outcome::Passed(404)),
            (502, None, "{\"requestId\":\"x\"}", Outcome::Passed(502)),
            (200, None, "{\"requestId\":\"x\"}", Outcome::Passed(200)),
        ] {
            assert_eq!(Outcome::of(&answer(status, location, body), "/_auth"), expected, "{status} {body}");
        }
    }

    #[test]
    fn what_is_let_through_is_a_surprise_where_its_plain_form_is_not() {
        let refused = [("/admin/x".to_owned(), Outcome::Refused(401))];
        let passed = [("/admin/x".to_owned(), Outcome::Passed(200))];
        let case = attack("sep-01");
        assert!(surprise(&case, &answer(200, None, ""), &refused, &HERE).unwrap().contains("though /admin/x is refused with 401"));
        assert_eq!(surprise(&case, &answer(200, None, ""), &passed, &HERE), None);
        assert_eq!(surprise(&case, &answer(400, None, ""), &refused, &HERE), None);
        assert!(surprise(&case, &answer(302, Some("//evil.example/x/"), ""), &passed, &HERE).is_some());
        let always = attack("dot-01");
        assert!(
            surprise(&always, &answer(200, None, ""), &[], &HERE).is_some()
                && surprise(&always, &answer(404, None, ""), &[], &HERE).is_some()
        );
        assert_eq!(surprise(&always, &answer(400, None, ""), &[], &HERE), None);
        let forged = attack("idn-01");
        assert!(surprise(&forged, &answer(200, None, "root@forged.example"), &passed, &HERE).is_some());
        assert_eq!(surprise(&forged, &answer(200, None, "nobody"), &passed, &HERE), None);
        assert!(refusal(&answer(400, None, ""), &passed, &HERE).is_some() && refusal(&answer(400, None, ""), &refused, &HERE).is_none());
    }

    #[test]
    fn the_sign_in_page_is_read() {
        let case = attack("rd-03");
        let page = |rd: &str| format!("<input type=\"hidden\" name=\"rd\" value=\"{rd}\">");
        assert_eq!(surprise(&case, &answer(200, None, &page("/")), &[], &HERE), None);
        assert_eq!(surprise(&case, &answer(200, None, &page("http://127.0.0.1/")), &[], &HERE), None);
        for wrong in [page("//evil.example"), page("/x"), String::new()] {
            assert!(surprise(&case, &answer(200, None, &wrong), &[], &HERE).is_some(), "{wrong}");
        }
        assert!(surprise(&case, &answer(500, None, &page("/")), &[], &HERE).is_some());
    }
}
