//! The corpus of `tests/corpus/`, sent to servers with the three sets of rules that its expectations are written for, over
//! HTTP/1.1 and, where it can be said there, over HTTP/2. What an application gets is compared to the byte.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use nullpass::selftest::corpus::{Arrival, Case, Corpus, Expected, FILES, RULES, Who};
use nullpass::selftest::request::Values;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{Answer, Captured, PASSWORD, PATIENCE, Server, basic};

const MEMBER: &str = "ada@example.com";
const ADMIN: &str = "grace@example.com";

/// A server with one of the sets of rules, and everybody who asks it something.
struct Site {
    server: Server,
    rules: usize,
    values: Values,
    ids: [String; 2],
}

impl Site {
    async fn start(rules: usize) -> Self {
        let path = format!("{}/tests/corpus/rules/{}.toml", env!("CARGO_MANIFEST_DIR"), RULES[rules]);
        let server = Server::start(&std::fs::read_to_string(path).unwrap()).await;
        let member = server.account(MEMBER, &[]).await.id.to_string();
        let admin = server.account(ADMIN, &["admins"]).await.id.to_string();
        let token = server.log_in(MEMBER).await;
        let api = json!({ "name": "corpus", "currentPassword": PASSWORD });
        let api = server.api("POST", "/auth/tokens", Some(&token), &api).await.is(201).json()["token"].as_str().unwrap().to_owned();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let turned = if signature.starts_with('A') { "B" } else { "A" };
        let in_base64 = |password: &str| basic(MEMBER, password).trim_start_matches("Basic ").to_owned();
        let mut values = Values::default();
        values.set("broken", &format!("{signed}.{turned}{}", &signature[1..]));
        values.set("basic", &in_base64(PASSWORD));
        values.set("basic_api", &in_base64(&api));
        values.set("other", &server.log_in(ADMIN).await);
        values.set("cookie", &server.log_in_by_cookie(MEMBER).await);
        values.set("api", &api);
        values.set("token", &token);
        Self { server, rules, values, ids: [member, admin] }
    }

    async fn check_http1(&self, case: &Case) -> Result<(), String> {
        let bytes = sent(case).bytes(&self.values);
        let mut connection = self.server.connect().await;
        connection.write(&bytes).await;
        let answer = connection.answer(case.request.method == "HEAD").await.unwrap_or_default();
        self.check(case, answer.status, &answer)?;
        if let Expected::Leads(to) = &case.expected[self.rules] {
            // Who is signed in is led there at once. Soon again to the same place would be taken for going round.
            self.server.wait(11);
            let mut request = case.request.clone();
            request.fields.push("Cookie: nullpass={cookie}".to_owned());
            let mut connection = self.server.connect().await;
            connection.write(&request.bytes(&self.values)).await;
            let answer = connection.answer(false).await.unwrap_or_default();
            if (answer.status, answer.field("location")) != (303, to) {
                return Err(format!("a browser that is signed in got {} {:?}", answer.status, answer.field("location")));
            }
        }
        Ok(())
    }

    async fn check_http2(&self, case: &Case, connection: &mut Option<h2::client::SendRequest<Bytes>>) -> Result<bool, String> {
        let Some((request, body)) = self.in_http2(case) else { return Ok(false) };
        if connection.is_none() {
            *connection = Some(client(self.server.address).await);
        }
        let sender = connection.as_mut().unwrap();
        let exchange = async {
            let (answer, mut stream) = sender.send_request(request, body.is_empty())?;
            if !body.is_empty() {
                stream.send_data(Bytes::from(body), true)?;
            }
            answer.await
        };
        match tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())? {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
                let mut body = answer.into_body();
                let mut bytes = Vec::new();
                while let Some(Ok(part)) = body.data().await {
                    body.flow_control().release_capacity(part.len()).unwrap();
                    bytes.extend_from_slice(&part);
                }
                let fields = location.map(|to| ("location".to_owned(), to)).into_iter().collect();
                self.check(case, status, &Answer { status, fields, body: bytes })?;
            }
            // What is malformed is an error of the stream there (RFC 9113, section 8.1.1).
            Err(_) if matches!(case.expected[self.rules], Expected::Stays(400 | 431)) => {
                *connection = None;
                let arrived = self.server.upstream.take();
                if !arrived.is_empty() {
                    return Err(format!("refused, and arrived: {arrived:?}"));
                }
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(true)
    }

    /// The same request over HTTP/2, and its body; `None`: it can't be said there.
    fn in_http2(&self, case: &Case) -> Option<(Request<()>, Vec<u8>)> {
        let sent = sent(case);
        let target = String::from_utf8(sent.target(&self.values)).ok()?;
        let host = sent.host.clone()?;
        if sent.raw.is_some() || !target.starts_with('/') || sent.method == "CONNECT" {
            return None;
        }
        let uri: Uri = format!("http://{host}{target}").parse().ok()?;
        if uri.path_and_query()?.as_str() != target || uri.authority()?.as_str() != host {
            return None;
        }
        let mut request = Request::builder().method(Method::from_bytes(&self.values.bytes(&sent.method)).ok()?).uri(uri);
        for line in sent.fields.iter().cloned().chain(sent.length(&self.values)) {
            let bytes = self.values.bytes(&line);
            let (name, value) = split_field(&bytes)?;
            let name = HeaderName::from_bytes(&name).ok().filter(|_| !bytes[..name.len()].ends_with(b" "))?;
            let own = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "te"];
            if own.contains(&name.as_str()) && (name != "te" || value != b"trailers") {
                return None;
            }
            request = request.header(name, HeaderValue::from_bytes(&value).ok()?);
        }
        Some((request.body(()).ok()?, self.values.bytes(&sent.body)))
    }

    fn check(&self, case: &Case, status: u16, answer: &Answer) -> Result<(), String> {
        let arrived = self.server.upstream.take();
        match &case.expected[self.rules] {
            Expected::Stays(expected) => {
                if status != *expected {
                    return Err(format!("{status} {}", answer.text().chars().take(120).collect::<String>()));
                }
                if status == 302 && !is_sign_in(answer.field("location")) {
                    return Err(format!("led to {}", answer.field("location")));
                }
                if arrived.is_empty() { Ok(()) } else { Err(format!("{status}, and arrived: {:?}", arrived[0].head)) }
            }
            Expected::Leads(to) => {
                let page = answer.text();
                let ways: Vec<String> =
                    page.split("name=\"rd\" value=\"").skip(1).map(|rest| unescaped(rest.split('"').next().unwrap())).collect();
                let right = ways.iter().any(|way| way == to) && ways.iter().all(|way| way == to || way.starts_with("/_auth/login?rd="));
                if status != 200 || !right || !arrived.is_empty() || (to == "/" && (page.contains("evil") || page.contains("alert("))) {
                    return Err(format!("{status}, leads to {ways:?}"));
                }
                Ok(())
            }
            Expected::Passes(arrival) => match &arrived[..] {
                _ if status != 200 => Err(format!("{status} {}", answer.text().chars().take(120).collect::<String>())),
                [request] => self.check_arrival(case, arrival, request),
                _ => Err(format!("{} requests arrived", arrived.len())),
            },
        }
    }

    /// Every byte of the head: the client's lines that may be there, ours, and nothing else.
    fn check_arrival(&self, case: &Case, arrival: &Arrival, request: &Captured) -> Result<(), String> {
        let bytes = |text: &str| self.values.bytes(text);
        let end = request.raw.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let mut lines = request.raw[..end].split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = [&bytes(&case.request.method)[..], b" ", &bytes(&arrival.target), b" HTTP/1.1"].concat();
        let first = lines.next().unwrap();
        if first != line {
            return Err(format!("arrived as {:?}", String::from_utf8_lossy(first)));
        }
        let mut found: Vec<Field> = lines.map(|line| split_field(line).unwrap()).collect();
        let mut expected: Vec<Field> = arrival.fields.iter().map(|line| split_field(&bytes(line)).unwrap()).collect();
        expected.extend(case.request.length(&self.values).map(|line| split_field(line.as_bytes()).unwrap()));
        let host = String::from_utf8(bytes(&arrival.host)).unwrap();
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or(80);
        let mut ours = vec![
            ("host", host.clone()),
            ("x-forwarded-for", "127.0.0.1".to_owned()),
            ("x-real-ip", "127.0.0.1".to_owned()),
            ("x-forwarded-proto", "http".to_owned()),
            ("x-forwarded-host", host.clone()),
            ("x-forwarded-port", port.to_string()),
            ("forwarded", format!("for=127.0.0.1;host=\"{host}\";proto=http")),
        ];
        if arrival.announced {
            let (email, id) = if case.who == Who::Admin { (ADMIN, &self.ids[1]) } else { (MEMBER, &self.ids[0]) };
            ours.extend(["x-forwarded-user", "x-forwarded-email", "x-forwarded-preferred-username"].map(|name| (name, email.to_owned())));
            ours.push(("x-forwarded-user-id", id.clone()));
            if case.who == Who::Admin {
                ours.push(("x-forwarded-groups", "admins".to_owned()));
            }
        }
        expected.extend(ours.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes())));
        if !expected.iter().any(|(name, _)| name == b"x-request-id") {
            // One of our own making is the only line that differs from time to time.
            let ids: Vec<Field> = found.extract_if(.., |(name, _)| name == b"x-request-id").collect();
            if ids.len() != 1 || ids[0].1.len() != 36 {
                return Err(format!("{} request ids", ids.len()));
            }
        }
        found.sort();
        expected.sort();
        let shown = |fields: &[Field]| {
            fields.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect::<Vec<_>>()
        };
        let (found, expected) = (shown(&found), shown(&expected));
        let (more, less): (Vec<_>, Vec<_>) = (
            found.iter().filter(|line| !expected.contains(line)).collect(),
            expected.iter().filter(|line| !found.contains(line)).collect(),
        );
        if found != expected {
            return Err(format!("arrived with {more:?} and without {less:?} ({} lines for {})", found.len(), expected.len()));
        }
        let body = bytes(&case.request.body);
        if request.body == body { Ok(()) } else { Err("arrived with another body".to_owned()) }
    }
}

/// The case with the sender's credential.
fn sent(case: &Case) -> nullpass::selftest::request::Request {
    let mut request = case.request.clone();
    match case.who {
        Who::Visitor => {}
        Who::Member => request.fields.push("Authorization: Bearer {token}".to_owned()),
        Who::Admin => request.fields.push("Authorization: Bearer {other}".to_owned()),
        Who::Browser => request.fields.push("Cookie: nullpass={cookie}".to_owned()),
    }
    request
}

type Field = (Vec<u8>, Vec<u8>);

/// The corpus as it is in the folder, which is what the binary was built with.
fn corpus() -> Corpus {
    let folder = format!("{}/tests/corpus", env!("CARGO_MANIFEST_DIR"));
    let files = FILES.map(|(name, _)| (name, std::fs::read_to_string(format!("{folder}/{name}")).unwrap()));
    Corpus::read(files.iter().map(|(name, text)| (*name, text.as_str()))).unwrap()
}

fn split_field(line: &[u8]) -> Option<Field> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii().to_vec()))
}

async fn client(address: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let socket = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(socket).await.unwrap();
    drop(nullpass::tasks::Tasks::new().spawn(connection));
    sender
}

/// Whether this is our sign-in page, and what it is to lead to a path of this origin.
fn is_sign_in(location: &str) -> bool {
    let Some(rd) = location.strip_prefix("/_auth/login?rd=") else { return false };
    let rd = percent_encoding::percent_decode_str(rd).decode_utf8().unwrap();
    rd.starts_with('/') && !rd[1..].starts_with(['/', '\\'])
}

fn unescaped(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#38;", "&"),
        ("&amp;", "&"),
    ];
    entities.iter().fold(text.to_owned(), |text, (entity, letter)| text.replace(entity, letter))
}

/// Everything under one set of rules, in both versions of HTTP.
async fn holds(rules: usize) {
    let corpus = corpus();
    let site = Site::start(rules).await;
    site.server.upstream.take();
    let (mut wrong, mut said, mut connection) = (Vec::new(), 0, None);
    for case in corpus.attacks.iter().chain(&corpus.honest) {
        let mut problem = |version: &str, problem: String| {
            wrong.push(format!("{} ({}: {}) {version}: expected {}, {problem}", case.id, case.family, case.about, case.expected[rules]));
        };
        if let Err(found) = site.check_http1(case).await {
            problem("HTTP/1.1", found);
        }
        match site.check_http2(case, &mut connection).await {
            Ok(could) => said += usize::from(could),
            Err(found) => problem("HTTP/2", found),
        }
        site.server.upstream.take();
    }
    assert!(wrong.is_empty(), "{} under {}:\n{}", wrong.len(), RULES[rules], wrong.join("\n"));
    assert!(said > 500, "{said} could be said in HTTP/2");
}

// HDR-1, HDR-2, HDR-3, HDR-4, FWD-1, FWD-5, BYP-1, TOK-1, TOK-2, FAIL-1, RED-1, cross-cutting 1, cross-cutting 3: what opens a
// door here is a path that no rule recognises.
#[tokio::test]
async fn a_public_site_with_a_protected_admin_holds() {
    holds(0).await;
}

// PATH-1, PATH-2, PATH-3, PATH-4, PATH-5, PATH-6: the same, where what opens a door is a path that a public rule recognises.
#[tokio::test]
async fn a_protected_site_with_public_assets_holds() {
    holds(1).await;
}

// HOST-1: the same, where it is a host or a method that is taken for another one.
#[tokio::test]
async fn hosts_and_groups_hold() {
    holds(2).await;
}

#[test]
fn there_are_enough_and_no_two_are_the_same() {
    let corpus = corpus();
    assert!(corpus.attacks.len() >= 500, "{} attacks", corpus.attacks.len());
    assert!(corpus.honest.len() >= 100, "{} honest requests", corpus.honest.len());
    let promises = std::fs::read_to_string(format!("{}/docs/security.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut ids = BTreeSet::new();
    let mut skeletons: BTreeMap<String, &str> = BTreeMap::new();
    let mut twice = Vec::new();
    assert_eq!(Corpus::embedded().unwrap().attacks.len(), corpus.attacks.len());
    for case in corpus.attacks.iter().chain(&corpus.honest) {
        assert!(ids.insert(&case.id), "{} is there twice", case.id);
        // A row of the table is meant by its id: two or more capitals, a hyphen, a number.
        for word in case.source.split([' ', ';', ':', ',', '(', ')']) {
            let is_row = word.split_once('-').is_some_and(|(kind, number)| {
                kind != "CVE"
                    && kind != "UTF"
                    && number.parse::<u8>().is_ok()
                    && kind.len() >= 2
                    && kind.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'2')
            });
            assert!(!is_row || promises.contains(&format!("| {word} |")), "{}: no row {word}", case.id);
        }
        let refused = |expected: &Expected| matches!(expected, Expected::Stays(400..=499)) && *expected == case.expected[0];
        assert!(!case.anywhere || case.expected.iter().all(refused), "{} is expected to be the same anywhere", case.id);
    }
    for case in &corpus.attacks {
        let skeleton = skeleton(case);
        if let Some(first) = skeletons.insert(skeleton.clone(), &case.id) {
            twice.push(format!("{} and {first}: {skeleton}", case.id));
        }
    }
    assert!(twice.is_empty(), "{} differ in nothing but a host or a letter:\n{}", twice.len(), twice.join("\n"));
}

/// What remains of a request when its hosts, and the letters and figures of its payload, are taken for one another. Words that
/// mean something to the rules, to browsers or to HTTP stay; names of fields stay, since each is an attack of its own.
fn skeleton(case: &Case) -> String {
    let request = &case.request;
    let mut parts = vec![bare(&request.method)];
    match (&request.raw, &request.rd) {
        (Some(raw), _) => parts.push(bare(raw)),
        (None, Some(rd)) => parts.push(format!("rd={}", bare(rd))),
        (None, None) => parts.push(bare(&request.target)),
    }
    parts.push(request.host.as_deref().map_or_else(|| "none".to_owned(), bare));
    for line in &request.fields {
        let (name, value) = line.split_once(':').unwrap_or(("", line));
        let plain = ["connection", "upgrade", "te"].contains(&&*name.to_ascii_lowercase()) || name.to_ascii_lowercase().starts_with("sec-");
        parts.push(format!("{}:{}", name.to_ascii_lowercase(), if plain { value.to_ascii_lowercase() } else { bare(value) }));
    }
    parts.push(bare(&request.body));
    parts.join("\n")
}

fn bare(text: &str) -> String {
    const WORDS: &str = "public admin private png _auth auth login api forward authx app apps example com http https ftp \
        javascript data vbscript file blob about mailto get head post put delete options trace connect propfind token other broken basic \
        basic_api bearer digest nullpass nullpass-pre nullpass-device device pre __host __secure host secure base64 self text html \
        unknown for proto by rd redirect user null path version jsessionid 0xff x-forwarded-user xn localhost deny same chunked";
    let known: BTreeSet<&str> = WORDS.split_whitespace().collect();
    let escapes: BTreeSet<bool> = text
        .match_indices('%')
        .filter_map(|(at, _)| text.get(at + 1..at + 3))
        .flat_map(|hex| hex.chars().collect::<Vec<_>>())
        .filter(char::is_ascii_alphabetic)
        .map(|c| c.is_ascii_uppercase())
        .collect();
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '%' {
            let hex: String = rest.chars().skip(1).take(2).collect();
            if hex.len() == 2 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                out.push('%');
                out.push_str(&hex.to_ascii_lowercase());
                rest = &rest[3..];
                // What is escaped twice, or oftener.
                let mut again = hex == "25";
                while again && rest.len() >= 2 && rest.is_char_boundary(2) && rest[..2].bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    out.push_str(&rest[..2].to_ascii_lowercase());
                    again = &rest[..2] == "25";
                    rest = &rest[2..];
                }
                continue;
            }
        }
        if c.is_ascii_alphanumeric() {
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let (word, after) = rest.split_at(length);
            let lower = word.to_ascii_lowercase();
            if known.contains(&*lower) {
                out.push_str(&lower);
                if lower != word {
                    out.push('^');
                }
            } else if word.bytes().all(|byte| byte.is_ascii_digit()) {
                let known = ["80", "443"].into_iter().find(|known| *known == word);
                let large = word.parse::<u64>().is_ok_and(|number| number > 255);
                out.push_str(known.unwrap_or(if word.starts_with('0') && word.len() > 1 {
                    "00"
                } else if large {
                    "256"
                } else {
                    "1"
                }));
            } else if lower.starts_with("0x") {
                out.push_str(&lower);
            } else {
                out.push('○');
            }
            rest = after;
            continue;
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    while out.contains("○.○") {
        out = out.replace("○.○", "○");
    }
    if escapes.len() > 1 {
        out.push_str(" in both cases");
    }
    out
}
