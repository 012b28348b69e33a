//! The API on a real connection over a store of its own, with a clock that stands still, and a client that
//! sees every header.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, SET_COOKIE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nullpass::app;
use nullpass::auth::Auth;
use nullpass::auth::live::Entry;
use nullpass::auth::recognise::Recognised;
use nullpass::clock::{Clock, ManualClock, Timestamp};
use nullpass::config::{Argon2, Config, Registration, Storage};
use nullpass::tasks::Tasks;
use nullpass::web::{self, Caller, Web};
use nullpass::wire::context::{self, ConnInfo, Context, Credential};
use nullpass::wire::cookie::{self, Found, Names};
use serde_json::{Value, json};

use crate::backend;

pub(crate) const PASSWORD: &str = "violet-harbour-42-lantern";
pub(crate) const A: &str = "/_auth/api";

/// The server.
pub(crate) struct World {
    pub(crate) auth: Arc<Auth>,
    pub(crate) clock: ManualClock,
    time: Clock,
    address: SocketAddr,
    storage: Storage,
    _data: tempfile::TempDir,
    tasks: Tasks,
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A request being put together.
pub(crate) struct Ask<'w> {
    world: &'w World,
    request: http::request::Builder,
    body: Bytes,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut config = Config { storage: backend::storage(data.path()), ..Config::default() };
        config.accounts.registration = Registration::Open;
        config.accounts.argon2 = Argon2 { memory_kib: 64, iterations: 1, parallelism: 1, max_concurrent: 0 };
        config.limits.auth_per_ip = None;
        config.limits.register_per_ip = None;
        change(&mut config);
        let (clock, handle) = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let auth = app::open_auth(&config, &clock).await.unwrap();
        let web = Arc::new(Web::new(Arc::clone(&auth), web::Settings::new(&config)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Arc::new(Door {
            web,
            auth: Arc::clone(&auth),
            names: Names::from(&config.sessions.cookie, config.server.is_https()),
            settings: context::Settings::from(&config.server),
            clock: clock.clone(),
        });
        let tasks = Tasks::new();
        let spawner = tasks.clone();
        drop(tasks.spawn(async move {
            while let Ok((socket, peer)) = listener.accept().await {
                let door = Arc::clone(&door);
                drop(spawner.spawn(async move {
                    let service = service_fn(|request| door.handle(peer.ip(), request));
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await);
                }));
            }
        }));
        Self { auth, clock: handle, time: clock, address, storage: config.storage, _data: data, tasks }
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        let request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        Ask { world: self, request, body: Bytes::new() }
    }

    pub(crate) fn get(&self, path: &str) -> Ask<'_> {
        self.ask("GET", path)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Ask<'_> {
        self.ask("POST", path).json(body)
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Registers and returns the token.
    pub(crate) async fn register(&self, email: &str) -> String {
        let answer = self.post(&format!("{A}/auth/register"), &json!({ "email": email, "password": PASSWORD })).send().await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Signs in and returns the answer.
    pub(crate) async fn log_in(&self, email: &str, extra: Value) -> Answer {
        let mut body = json!({ "email": email, "password": PASSWORD });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.post(&format!("{A}/auth/login"), &body).send().await
    }

    /// Whether a token opens the door.
    pub(crate) async fn is_good(&self, token: &str) -> bool {
        let me = self.get(&format!("{A}/auth/me")).bearer(token).send().await.status;
        let verify = self.post(&format!("{A}/auth/verify"), &json!({ "token": token })).send().await.status;
        assert!(me == verify || me == 200, "me {me}, verify {verify}");
        assert!(me == 200 || me == 401, "{me}");
        me == 200
    }

    /// Turns the second factor on, and returns the secret and the recovery codes.
    pub(crate) async fn enrol(&self, token: &str) -> (String, Vec<String>) {
        let path = format!("{A}/auth/2fa");
        let made = self.post(&path, &json!({ "enable": true })).bearer(token).send().await.json();
        let secret = made["secret"].as_str().unwrap().to_owned();
        let code = self.code(&secret);
        let done = self.post(&path, &json!({ "enable": true, "verificationCode": code })).bearer(token).send().await;
        assert_eq!(done.status, 200, "{done:?}");
        let codes = done.json()["recoveryCodes"].as_array().unwrap().iter().map(|code| code.as_str().unwrap().to_owned()).collect();
        (secret, codes)
    }

    /// The code of this moment.
    pub(crate) fn code(&self, secret: &str) -> String {
        let seconds = u64::try_from(self.now().as_secs()).unwrap();
        totp_rs::Builder::new().with_secret(base32(secret)).build().unwrap().generate(seconds).to_string()
    }

    /// A code that is wrong at this moment.
    pub(crate) fn wrong_code(&self, secret: &str) -> String {
        let right: u32 = self.code(secret).parse().unwrap();
        format!("{:06}", (right + 500_000) % 1_000_000)
    }

    /// To the next step, so that a new code is there.
    pub(crate) fn next_code(&self, secret: &str) -> String {
        self.clock.advance(Duration::from_secs(30));
        self.code(secret)
    }

    /// Every byte that it keeps.
    pub(crate) fn disk(&self) -> Vec<u8> {
        backend::kept(&self.storage)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.time.now()
    }
}

impl Ask<'_> {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn cookie(self, cookie: &str) -> Self {
        self.header(COOKIE.as_str(), cookie)
    }

    /// As a script of our own origin sends it.
    pub(crate) fn same_origin(self) -> Self {
        self.header("sec-fetch-site", "same-origin")
    }

    /// As a browser goes to a page.
    pub(crate) fn navigate(self) -> Self {
        self.header("sec-fetch-mode", "navigate").header("sec-fetch-dest", "document").header("accept", "text/html")
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        self.header(CONTENT_TYPE.as_str(), "application/json")
    }

    pub(crate) fn form(mut self, fields: &[(&str, &str)]) -> Self {
        self.body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish().into();
        self.header(CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded").same_origin().navigate()
    }

    pub(crate) fn bytes(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) async fn send(self) -> Answer {
        let socket = tokio::net::TcpStream::connect(self.world.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        drop(self.world.tasks.spawn(connection));
        let response = sender.send_request(self.request.body(Full::new(self.body)).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let answer = Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() };
        answer.check_guards();
        answer
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn token(&self) -> String {
        self.json()["token"].as_str().unwrap_or_else(|| panic!("no token: {self:?}")).to_owned()
    }

    /// `name=value` of a cookie that was set; `None`: it was not, or was expired.
    pub(crate) fn cookie(&self, name: &str) -> Option<String> {
        let lines = self.headers.get_all(SET_COOKIE).iter().map(|line| line.to_str().unwrap());
        let mut pairs = lines.map(|line| line.split(';').next().unwrap());
        pairs.rfind(|pair| pair.strip_prefix(name).is_some_and(|rest| rest.starts_with('=') && rest.len() > 1)).map(str::to_owned)
    }

    pub(crate) fn expires(&self, name: &str) -> bool {
        let begin = format!("{name}=;");
        self.headers.get_all(SET_COOKIE).iter().any(|line| line.to_str().unwrap().starts_with(&begin))
    }

    pub(crate) fn location(&self) -> &str {
        self.headers[LOCATION].to_str().unwrap()
    }

    /// Asserts an error's shape.
    pub(crate) fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert!(body["error"].is_string() && body["requestId"].is_string(), "{body}");
        body
    }

    /// The value of a hidden field.
    pub(crate) fn hidden(&self, name: &str) -> String {
        let begin = format!("<input type=\"hidden\" name=\"{name}\" value=\"");
        let rest = self.text().split(&begin).nth(1).unwrap_or_else(|| panic!("no {name} in {}", self.text()));
        rest.split('"').next().unwrap().replace("&#38;", "&").replace("&#61;", "=")
    }

    /// What every answer of ours must have (cross-cutting rules 4, 5 and 8), and nothing that nobody thought about.
    fn check_guards(&self) {
        const ALLOWED: &[&str] = &[
            "allow",
            "cache-control",
            "connection",
            "content-disposition",
            "content-length",
            "content-security-policy",
            "content-type",
            "cross-origin-opener-policy",
            "cross-origin-resource-policy",
            "date",
            "location",
            "ratelimit",
            "ratelimit-limit",
            "ratelimit-policy",
            "ratelimit-remaining",
            "ratelimit-reset",
            "referrer-policy",
            "retry-after",
            "set-cookie",
            "www-authenticate",
            "x-content-type-options",
            "x-frame-options",
        ];
        for name in self.headers.keys() {
            assert!(ALLOWED.contains(&name.as_str()), "{name} is new");
        }
        let value = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let asset = ["text/css", "text/javascript", "image/"].iter().any(|kind| value("content-type").starts_with(kind));
        assert!(asset || value("cache-control") == "no-store", "{self:?}");
        assert_eq!(value("x-content-type-options"), "nosniff");
        if value("content-type").starts_with("text/html") {
            let policy = value("content-security-policy");
            assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"));
            assert_eq!(value("x-frame-options"), "DENY");
            let text = self.text().to_ascii_lowercase();
            let scripts = text.matches("<script").count();
            assert_eq!(scripts, text.matches("<script src=\"/_auth/static/").count());
            assert_eq!(scripts > 0, policy.contains("script-src 'self'"), "what a page needs and no more: {policy}");
            assert!(scripts <= 1 && !text.contains(" style=") && !text.contains(" onclick"));
        }
        for line in self.headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            assert!(line.contains("; HttpOnly") && line.contains("; Path=/"), "{line}");
        }
    }
}

/// What the gateway does for our routes, and no more.
struct Door {
    web: Arc<Web>,
    auth: Arc<Auth>,
    names: Names,
    settings: context::Settings,
    clock: Clock,
}

impl Door {
    async fn handle(
        &self,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<nullpass::wire::body::Body>, std::convert::Infallible> {
        let (head, body) = request.into_parts();
        let conn = ConnInfo { peer: Some(peer), peer_port: 1, local: None, local_port: 0, tls: false };
        let context = context::read(&head, &conn, &self.settings, self.clock.now()).unwrap();
        let bearer = match context::bearer(&head) {
            Credential::Bearer(token) => Some(self.caller(token, false, &context).await.unwrap_or(Caller::Refused)),
            Credential::None
            | Credential::MalformedBearer(_)
            | Credential::Basic { .. }
            | Credential::MalformedBasic(_)
            | Credential::Other(_) => None,
        };
        let caller = match (bearer, cookie::find(&head.headers, &self.names.session)) {
            (Some(caller), _) => Some(caller),
            (None, Found::One(token)) => self.caller(token, true, &context).await,
            (None, Found::None | Found::Conflict) => None,
        };
        Ok(self.web.handle(Request::from_parts(head, body), &context, caller.unwrap_or(Caller::Nobody)).await)
    }

    async fn caller(&self, token: &str, from_cookie: bool, context: &Context) -> Option<Caller> {
        match self.auth.recognise(token, context.client, context.now).await {
            Recognised::Good(identity, entry) => Some(match &*entry {
                Entry::Session { session, .. } => {
                    let session = Arc::clone(session);
                    Caller::Session { identity, session, entry, token: token.to_owned(), from_cookie }
                }
                Entry::Api(token) => Caller::ApiToken { identity, token: Arc::clone(token) },
            }),
            Recognised::No => None,
            Recognised::StoreAway => Some(Caller::StoreAway),
        }
    }
}

fn base32(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0_u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'2'..=b'7' => c - b'2' + 26,
            _ => panic!("{c} is not base 32"),
        };
        held = (held << 5) | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).unwrap());
        }
    }
    bytes
}
