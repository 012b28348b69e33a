//! A PostgreSQL server of the tests' own: from the programs of Debian's package, in a folder of its own, on a free port
//! and a unix socket. Never a server that happens to be there. A shell that waits for the end of its input ends the
//! server and removes the folder, also when the process of the tests is killed.
//!
//! For several test crates: `#[path = "../support/postgres.rs"] mod postgres;`

#![allow(dead_code, clippy::allow_attributes, reason = "each test crate uses a part of it")]

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

/// A server that was started for the whole run, by its URL; unset: every process of tests starts one.
const GIVEN: &str = "NULLPASS_TEST_POSTGRES";

/// The role of the tests, which owns the database and may nothing else.
pub(crate) const ROLE: &str = "nullpass";
/// The database of the tests.
pub(crate) const DATABASE: &str = "nullpass";
/// The role's password, which no error may show.
pub(crate) const PASSWORD: &str = "s3cret-canary";

const PATIENCE: Duration = Duration::from_secs(60);

/// What the guard does: starts the server as somebody without rights, and tidies up when nobody holds its input any more.
const GUARD: &str = r#"
"$@" >>"$FOLDER/log" 2>&1 </dev/null &
server=$!
echo "$server" >"$FOLDER/pid"
cat >/dev/null
kill -QUIT "$server" 2>/dev/null
kill -CONT "$server" 2>/dev/null
wait "$server"
test -e "$FOLDER/keep" || rm -rf "$FOLDER"
"#;

/// The URL of a server that all tests of this process share. Schemas keep them apart: see [`schema`].
pub(crate) fn url() -> String {
    static SHARED: OnceLock<(String, Option<Server>)> = OnceLock::new();
    let (url, _) = SHARED.get_or_init(|| match std::env::var_os(GIVEN) {
        Some(url) => (url.into_string().unwrap(), None),
        None => {
            let server = Server::start(&[("fsync", "off"), ("full_page_writes", "off"), ("max_connections", "300")]);
            (server.url(), Some(server))
        }
    });
    url.clone()
}

/// The name of a schema that nobody has used before: processes follow each other on a server that is given.
pub(crate) fn schema() -> String {
    format!("t{}", uuid::Uuid::now_v7().simple())
}

/// A server for one test. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    port: u16,
    settings: Vec<(String, String)>,
    guard: Child,
}

impl Server {
    /// Makes a server with these settings (`postgresql.conf`), a role [`ROLE`] and its database, and starts it.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        Self::prepared(settings, |_| {})
    }

    /// The same; `prepare` may write into its data folder before it is started, such as certificates or `pg_hba.conf`.
    pub(crate) fn prepared(settings: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::Builder::new().prefix("nullpass-pg-").tempdir().unwrap().keep();
        own(&folder);
        let data = folder.join("data");
        let options = ["--no-sync", "--no-instructions", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-D"];
        let mut initdb = unprivileged(&program("initdb"));
        let done = initdb.args(options).arg(&data).current_dir("/").output().unwrap();
        assert!(done.status.success(), "{}", text(&done));
        // The unix socket lies in a folder that nobody else may enter.
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n").unwrap();
        prepare(&data);
        for file in fs::read_dir(&data).unwrap() {
            own(&file.unwrap().path());
        }
        let settings: Vec<(String, String)> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let server = Self::launch(&folder, &settings);
        server.sql("postgres", &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'"));
        server.sql("postgres", &format!("CREATE DATABASE {DATABASE} OWNER {ROLE}"));
        server
    }

    /// Ends it as a crash would, without writing anything more, and starts it again where it was.
    pub(crate) fn crash_and_restart(&mut self) {
        fs::write(self.folder.join("keep"), "").unwrap();
        drop(self.guard.stdin.take());
        self.guard.wait().unwrap();
        fs::remove_file(self.folder.join("keep")).unwrap();
        fs::remove_file(self.folder.join("log")).unwrap();
        self.guard = Self::spawn(&self.folder, self.port, &self.settings);
        assert!(self.wait(), "{}", self.log());
    }

    /// Stops every process of it where it is (`STOP`): connections stay open and nobody answers. Or lets them go on (`CONT`).
    pub(crate) fn signal(&self, signal: &str) {
        let server = fs::read_to_string(self.folder.join("pid")).unwrap().trim().to_owned();
        let send = |pid: &str| Command::new("kill").arg(format!("-{signal}")).arg(pid).output().unwrap();
        // The server first: it makes the others. Those each lead a session of their own, and may just have ended.
        let done = send(&server);
        assert!(done.status.success(), "{}", text(&done));
        let children = Command::new("ps").args(["-o", "pid=", "--ppid", &server]).output().unwrap();
        for child in String::from_utf8(children.stdout).unwrap().split_whitespace() {
            send(child);
        }
    }

    fn launch(folder: &Path, settings: &[(String, String)]) -> Self {
        // Somebody else may take the port before the server does: then another one.
        for _ in 0..5 {
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            let guard = Self::spawn(folder, port, settings);
            let mut server = Self { folder: folder.to_owned(), port, settings: settings.to_vec(), guard };
            if server.wait() {
                return server;
            }
            fs::write(folder.join("keep"), "").unwrap();
            drop(server);
            fs::remove_file(folder.join("keep")).unwrap();
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(folder.join("log")).unwrap_or_default());
    }

    fn spawn(folder: &Path, port: u16, settings: &[(String, String)]) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", GUARD, "guard"]).args(unprivileged_words(&program("postgres"))).arg("-D").arg(folder.join("data"));
        let mut option = |name: &str, value: &str| {
            command.arg("-c").arg(format!("{name}={value}"));
        };
        option("listen_addresses", "127.0.0.1");
        option("port", &port.to_string());
        option("unix_socket_directories", folder.to_str().unwrap());
        option("shared_buffers", "32MB");
        for (name, value) in settings {
            option(name, value);
        }
        // A signal to the tests from a terminal is not for it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.env("FOLDER", folder).current_dir("/").stdin(Stdio::piped()).spawn().unwrap()
    }

    /// Until it takes connections; false: it ended.
    #[expect(clippy::disallowed_methods, reason = "what is tested has nothing to do before there is a server")]
    fn wait(&mut self) -> bool {
        let tries = PATIENCE.as_millis() / 50;
        for _ in 0..tries {
            if self.psql("postgres", "SELECT 1").status.success() {
                return true;
            }
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            if log.contains("FATAL:  could not") || log.contains("Address already in use") {
                return false;
            }
            assert!(self.guard.try_wait().unwrap().is_none(), "{log}");
            sleep(Duration::from_millis(50));
        }
        false
    }

    /// Where it is, for [`ROLE`], without TLS.
    pub(crate) fn url(&self) -> String {
        self.url_of(ROLE, PASSWORD, DATABASE, "sslmode=disable")
    }

    /// Where it is, for somebody else.
    pub(crate) fn url_of(&self, role: &str, password: &str, database: &str, query: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}?{query}", self.port)
    }

    /// Its TCP port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its unix socket is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// What `psql` prints for this, as the superuser; rows by line, fields by `|`.
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let done = self.psql(database, sql);
        assert!(done.status.success(), "{sql}: {}", text(&done));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn psql(&self, database: &str, sql: &str) -> Output {
        let mut command = Command::new(program("psql"));
        command.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql]);
        command.arg("-h").arg(&self.folder).arg("-p").arg(self.port.to_string()).current_dir("/").output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of its input; then it tidies up.
        drop(self.guard.stdin.take());
        drop(self.guard.wait());
    }
}

fn text(done: &Output) -> String {
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

/// A program of the newest server that is installed.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|entry| entry.unwrap().path());
    let newest = versions.max_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    let program = newest.map(|folder| folder.join("bin").join(name)).filter(|program| program.exists());
    program
        .unwrap_or_else(|| panic!("there is no PostgreSQL server here; `apt-get install postgresql`, or name one for the tests in {GIVEN}"))
}

/// PostgreSQL refuses to run as root, so root runs it as somebody without rights.
fn somebody() -> Option<(String, String)> {
    let root = fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"));
    root.then(|| {
        let accounts = fs::read_to_string("/etc/passwd").unwrap();
        let account = |name: &str| {
            let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
            let fields: Vec<&str> = line.split(':').collect();
            Some((fields[2].to_owned(), fields[3].to_owned()))
        };
        account("postgres").or_else(|| account("nobody")).unwrap()
    })
}

fn unprivileged_words(program: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    if let Some((user, group)) = somebody() {
        words.extend(["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"].map(OsString::from));
    }
    words.push(program.into());
    words
}

fn unprivileged(program: &Path) -> Command {
    let words = unprivileged_words(program);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Gives a file or folder to whoever runs the server.
fn own(path: &Path) {
    if let Some((user, group)) = somebody() {
        std::os::unix::fs::chown(path, Some(user.parse().unwrap()), Some(group.parse().unwrap())).unwrap();
    }
}
