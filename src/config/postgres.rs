//! Where a PostgreSQL database is and how it is spoken to, as libpq's URLs say it
//! (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>). No error repeats a value, which
//! may be a password that stands in the wrong place.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::CertificateFiles;
use crate::model::Secret;

/// `[storage]` with `backend = "postgres"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postgres {
    /// Where the server is; of several, the first that takes writes.
    pub hosts: Vec<PostgresHost>,
    /// The role.
    pub user: String,
    /// Its password; `None`: in the passfile, or none is needed.
    pub password: Option<Secret<String>>,
    /// A file as libpq's `.pgpass`, read again for each connection.
    pub passfile: Option<PathBuf>,
    /// The database; as the role is called unless the URL says otherwise.
    pub database: String,
    /// How the server is known to be the right one.
    pub tls: PostgresTls,
    /// Command-line options for the server's process, such as `-c work_mem=8MB`.
    pub options: Option<String>,
    /// What the server's views call us.
    pub application_name: String,
    /// How long a connection may take, an address.
    pub connect_timeout: Duration,
    /// Whether the password is bound to the TLS connection (SCRAM-SHA-256-PLUS); `None`: where the server can.
    pub channel_binding: Option<bool>,
    /// Whether of several hosts any is taken first, and not in the order that is written.
    pub any_order: bool,
    /// At most so many connections, besides one that listens.
    pub pool: u32,
    /// The schema that all tables are in.
    pub schema: String,
}

/// One place where a server may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PostgresHost {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// The folder of its unix socket, and the port in the socket's name.
    Unix(PathBuf, u16),
}

impl PostgresHost {
    /// Whether the way there never leaves the machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(..) => true,
            Self::Tcp(name, _) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback()),
        }
    }
}

impl std::fmt::Display for PostgresHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            Self::Tcp(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(folder, port) => write!(f, "{}/.s.PGSQL.{port}", folder.display()),
        }
    }
}

/// libpq's `sslmode`, from the weakest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can, whoever it is.
    Prefer,
    /// Encrypted, whoever it is.
    Require,
    /// Encrypted, and the certificate is of an authority we know.
    VerifyCa,
    /// Encrypted, and the certificate is of an authority we know and for this host.
    VerifyFull,
}

/// TLS towards the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresTls {
    /// What is demanded.
    pub mode: SslMode,
    /// Authorities in PEM; `None`: the system's.
    pub roots: Option<PathBuf>,
    /// Who we are.
    pub client: Option<CertificateFiles>,
    /// Whether TLS begins at once, without being asked for in plain text first (`sslnegotiation=direct`, from version 17 on).
    pub direct: bool,
}

/// What is wrong with a URL, as the end of a sentence.
type Wrong = String;

impl Postgres {
    /// Connections unless configured otherwise.
    pub const POOL: u32 = 10;
    /// The schema unless configured otherwise.
    pub const SCHEMA: &'static str = "nullpass";

    /// Reads a `postgres://` URL. The error never repeats any part of it but the names of parameters.
    pub fn parse(url: &str) -> Result<Self, Wrong> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or("must begin with postgres://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.contains('@') {
            return Err("has an `@` after a `/`; write an `@`, `:` or `/` of a password as %40, %3A or %2F".to_owned());
        }
        let mut parts = Parts::default();
        let hosts = match authority.rsplit_once('@') {
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
                parts.user = filled(decoded(user)?);
                parts.password = password.map(decoded).transpose()?.and_then(filled).map(Secret::new);
                hosts
            }
            None => authority,
        };
        if hosts.contains('#') || query.contains('#') || database.contains('#') {
            return Err("holds a `#`; write it as %23".to_owned());
        }
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            let (name, port) = split_port(host)?;
            parts.hosts.push(decoded(name)?);
            parts.ports.push(port.to_owned());
        }
        parts.database = filled(decoded(database)?);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or("has a parameter without a value")?;
            parts.set(&decoded(name)?, decoded(value)?).map_err(|wrong| {
                // Behind an unescaped `?` of a password stands the rest of it, which is no name to repeat.
                let may_be_a_password = !authority.contains('@') && query.contains('@');
                if may_be_a_password { "has an `@` after a `?`; write a `?` or `@` of a password as %3F or %40".to_owned() } else { wrong }
            })?;
        }
        parts.finish()
    }

    /// What is asked for that is weaker than encryption with a server whose name was verified, though the way there
    /// leaves the machine.
    pub fn danger(&self) -> Option<String> {
        let what = match self.tls.mode {
            SslMode::VerifyFull => return None,
            _ if self.hosts.iter().all(PostgresHost::is_local) => return None,
            SslMode::Disable => "sslmode=disable: accounts and sessions travel to the database in plain text",
            SslMode::Prefer => "sslmode=prefer: whoever is between us and the database can read along and answer in its place",
            SslMode::Require => "sslmode=require: whoever is between us and the database can answer in its place",
            SslMode::VerifyCa => "sslmode=verify-ca: any server with a certificate of the same authority is taken for the database",
        };
        Some(format!("storage.url has {what}; verify-full is what keeps others out"))
    }
}

/// What was read so far.
#[derive(Default)]
struct Parts {
    hosts: Vec<String>,
    ports: Vec<String>,
    user: Option<String>,
    password: Option<Secret<String>>,
    passfile: Option<PathBuf>,
    database: Option<String>,
    mode: Option<SslMode>,
    roots: Option<PathBuf>,
    /// Whether the system's authorities are named.
    system: bool,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    direct: bool,
    options: Option<String>,
    application_name: Option<String>,
    connect_timeout: Option<Duration>,
    channel_binding: Option<bool>,
    any_order: bool,
}

impl Parts {
    fn set(&mut self, name: &str, value: String) -> Result<(), Wrong> {
        let one_of = |words: &str| format!("has a value for {name} that is none of {words}");
        match name {
            "host" => self.hosts = value.split(',').map(ToOwned::to_owned).collect(),
            "port" => self.ports = value.split(',').map(ToOwned::to_owned).collect(),
            "user" => self.user = filled(value),
            "password" => self.password = filled(value).map(Secret::new),
            "passfile" => self.passfile = filled(value).map(PathBuf::from),
            "dbname" => self.database = filled(value),
            "options" => self.options = filled(value),
            "application_name" => self.application_name = filled(value),
            "sslrootcert" => {
                self.system = value == "system";
                self.roots = filled(value).filter(|path| path != "system").map(PathBuf::from);
            }
            "sslcert" => self.certificate = filled(value).map(PathBuf::from),
            "sslkey" => self.key = filled(value).map(PathBuf::from),
            "sslmode" => {
                self.mode = Some(match value.as_str() {
                    "disable" => SslMode::Disable,
                    "prefer" => SslMode::Prefer,
                    "require" => SslMode::Require,
                    "verify-ca" => SslMode::VerifyCa,
                    "verify-full" => SslMode::VerifyFull,
                    _ => return Err(one_of("disable, prefer, require, verify-ca, verify-full")),
                });
            }
            "sslnegotiation" => {
                self.direct = match value.as_str() {
                    "postgres" => false,
                    "direct" => true,
                    _ => return Err(one_of("postgres, direct")),
                };
            }
            // A store must write; so that is what is looked for in any case.
            "target_session_attrs" => match value.as_str() {
                "any" | "read-write" | "primary" => {}
                _ => return Err(format!("{}: the store has to write", one_of("any, read-write, primary"))),
            },
            "load_balance_hosts" => {
                self.any_order = match value.as_str() {
                    "disable" => false,
                    "random" => true,
                    _ => return Err(one_of("disable, random")),
                };
            }
            "channel_binding" => {
                self.channel_binding = match value.as_str() {
                    "disable" => Some(false),
                    "prefer" => None,
                    "require" => Some(true),
                    _ => return Err(one_of("disable, prefer, require")),
                };
            }
            "connect_timeout" => {
                let secs = value.parse().ok().filter(|secs| (1..=60).contains(secs));
                self.connect_timeout = Some(Duration::from_secs(secs.ok_or("has a connect_timeout that is not 1 to 60 (seconds)")?));
            }
            _ => return Err(format!("has a parameter {name:?} that is not known; {KNOWN}")),
        }
        Ok(())
    }

    fn finish(self) -> Result<Postgres, Wrong> {
        let user = self.user.ok_or("names no user; write postgres://USER:PASSWORD@HOST/DATABASE")?;
        if self.hosts.is_empty() || self.hosts.iter().any(String::is_empty) {
            return Err("names no host; for a unix socket write host=/FOLDER as a parameter".to_owned());
        }
        let ports = match self.ports.len() {
            0 => vec![5432; self.hosts.len()],
            1 => vec![port(self.ports.first().map_or("", String::as_str))?; self.hosts.len()],
            count if count == self.hosts.len() => self.ports.iter().map(|text| port(text)).collect::<Result<_, _>>()?,
            _ => return Err("has another number of ports than of hosts".to_owned()),
        };
        let hosts: Vec<PostgresHost> = self
            .hosts
            .into_iter()
            .zip(ports)
            .map(|(host, port)| if host.starts_with('/') { PostgresHost::Unix(host.into(), port) } else { PostgresHost::Tcp(host, port) })
            .collect();
        let local = hosts.iter().all(PostgresHost::is_local);
        // As libpq: whoever names authorities wants them to be asked; anybody may have a certificate of the system's.
        let mode = match self.mode {
            Some(SslMode::VerifyFull) | None if self.system => SslMode::VerifyFull,
            Some(_) if self.system => return Err("has sslrootcert=system with another sslmode than verify-full".to_owned()),
            Some(SslMode::Require) if self.roots.is_some() => SslMode::VerifyCa,
            Some(mode) => mode,
            None if local => SslMode::Prefer,
            None => SslMode::VerifyFull,
        };
        let client = match (self.certificate, self.key) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err("has one of sslcert and sslkey; both are needed".to_owned()),
        };
        Ok(Postgres {
            hosts,
            password: self.password,
            passfile: self.passfile,
            database: self.database.unwrap_or_else(|| user.clone()),
            user,
            tls: PostgresTls { mode, roots: self.roots, client, direct: self.direct },
            options: self.options,
            application_name: self.application_name.unwrap_or_else(|| "nullpass".to_owned()),
            connect_timeout: self.connect_timeout.unwrap_or(Duration::from_secs(5)),
            channel_binding: self.channel_binding,
            any_order: self.any_order,
            pool: Postgres::POOL,
            schema: Postgres::SCHEMA.to_owned(),
        })
    }
}

const KNOWN: &str = "known are host, port, user, password, passfile, dbname, options, application_name, connect_timeout, sslmode, \
    sslrootcert, sslcert, sslkey, sslnegotiation, channel_binding, target_session_attrs, load_balance_hosts";

fn filled(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn decoded(text: &str) -> Result<String, Wrong> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "holds bytes that are not UTF-8")?;
    if decoded.contains('\0') { Err("holds a zero byte".to_owned()) } else { Ok(decoded.into_owned()) }
}

/// `host`, `host:port`, `[v6]:port`; the port is empty where none is written.
fn split_port(host: &str) -> Result<(&str, &str), Wrong> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or("has a `[` without a `]`")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if rest.is_empty() => Ok((address, "")),
            None => Err("has something between `]` and the port".to_owned()),
        };
    }
    match host.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            Err("has a host with two colons; write an IPv6 address in brackets, and an `@`, `:` or `/` of a \
             password as %40, %3A or %2F"
                .to_owned())
        }
        Some((name, port)) => Ok((name, port)),
        None => Ok((host, "")),
    }
}

fn port(text: &str) -> Result<u16, Wrong> {
    if text.is_empty() {
        return Ok(5432);
    }
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| "has a port that is not 1 to 65535; write an `@`, `:` or `/` of a password as %40, %3A or %2F".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(url: &str) -> Postgres {
        Postgres::parse(url).unwrap_or_else(|wrong| panic!("{url}: {wrong}"))
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let full = parsed("postgresql://n%40p:p%3Aw%2F@a:1,[::1]:2,c/db?sslmode=verify-ca&sslrootcert=/ca.pem&options=-c%20work_mem=8MB");
        assert_eq!((full.user.as_str(), full.database.as_str()), ("n@p", "db"));
        assert_eq!(full.password.unwrap().expose(), "p:w/");
        let hosts = [("a", 1), ("::1", 2), ("c", 5432)].map(|(name, port)| PostgresHost::Tcp(name.to_owned(), port));
        assert_eq!(full.hosts, hosts);
        assert_eq!((full.tls.mode, full.tls.roots), (SslMode::VerifyCa, Some("/ca.pem".into())));
        assert_eq!(full.options.as_deref(), Some("-c work_mem=8MB"));

        let socket = parsed("postgres:///db?host=/run/pg&port=5433&user=me&passfile=/p");
        assert_eq!(socket.hosts, [PostgresHost::Unix("/run/pg".into(), 5433)]);
        assert_eq!((socket.database.as_str(), socket.passfile), ("db", Some("/p".into())));
        assert_eq!(parsed("postgres://me@%2Frun%2Fpg").hosts, [PostgresHost::Unix("/run/pg".into(), 5432)]);
        assert_eq!(parsed("postgres://me@h").database, "me");
        assert_eq!(parsed("postgres://me@h/?sslmode=require&sslrootcert=/ca").tls.mode, SslMode::VerifyCa);
        assert_eq!(parsed("postgres://me@localhost/?sslrootcert=system").tls.mode, SslMode::VerifyFull);
    }

    #[test]
    fn nothing_weaker_than_verify_full_happens_by_itself() {
        for url in ["postgres://me@db.example", "postgres://me@10.0.0.1", "postgres://me@localhost,db.example"] {
            assert_eq!(parsed(url).tls.mode, SslMode::VerifyFull, "{url}");
            assert_eq!(parsed(url).danger(), None);
        }
        for url in ["postgres://me@localhost", "postgres://me@127.0.0.2", "postgres://me@[::1]", "postgres://me@%2Frun"] {
            assert_eq!(parsed(url).tls.mode, SslMode::Prefer, "{url}");
            assert_eq!(parsed(url).danger(), None);
        }
        for mode in ["disable", "prefer", "require", "verify-ca"] {
            let danger = parsed(&format!("postgres://me:hunter2@db.example/?sslmode={mode}")).danger().unwrap();
            assert!(danger.contains(mode) && !danger.contains("hunter2"), "{danger}");
            assert_eq!(parsed(&format!("postgres://me@127.0.0.1/?sslmode={mode}")).danger(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        for (url, part) in [
            ("", "begin with postgres://"),
            ("mysql://u:hunter2@h/d", "begin with postgres://"),
            ("postgres://", "no user"),
            ("postgres://h/hunter2", "no user"),
            ("postgres://u:hunter2@/d", "no host"),
            ("postgres://u:hunter2@a,,b/d", "no host"),
            ("postgres://u:a?hunter2=b@h/d", "%3F"),
            ("postgres://u:hunter2@h/d?sslmode=require&sslrootcert=system", "verify-full"),
            ("postgres://u:hunter2@h:x/d", "port"),
            ("postgres://u:hunter2@h:0/d", "port"),
            ("postgres://u:hunter2/x@h/d", "%2F"),
            ("postgres://u:hunter2@[::1/d", "without a `]`"),
            ("postgres://u:hunter2@::1/d", "brackets"),
            ("postgres://u:hunter2@h/d#x", "%23"),
            ("postgres://u:%ff@h/d", "UTF-8"),
            ("postgres://u:a%00b@h/d", "zero byte"),
            ("postgres://u:hunter2@h/d?sslmode=hunter2", "sslmode"),
            ("postgres://u:hunter2@h/d?sslmode", "without a value"),
            ("postgres://u:hunter2@h/d?sslcert=hunter2", "both are needed"),
            ("postgres://u:hunter2@h/d?ssl_mode=hunter2", "\"ssl_mode\" that is not known"),
            ("postgres://u:hunter2@h/d?connect_timeout=hunter2", "connect_timeout"),
            ("postgres://u:hunter2@h/d?target_session_attrs=standby", "has to write"),
            ("postgres://u:hunter2@a,b/d?port=1,2,3", "number of ports"),
        ] {
            let wrong = Postgres::parse(url).unwrap_err();
            assert!(wrong.contains(part) && !wrong.contains("hunter2"), "{url}: {wrong}");
        }
        assert!(!format!("{:?}", parsed("postgres://u:hunter2@h")).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(postgres://)?[ -~]{0,40}") {
            drop(Postgres::parse(&text));
        }
    }
}
