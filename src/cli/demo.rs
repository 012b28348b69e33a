//! `nullpass demo`: the whole thing in one command, on loopback, with nothing left behind.

use std::fs::DirBuilder;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::demo_upstream::DemoUpstream;
use super::{Failure, output};
use crate::app;
use crate::config::{Access, Config, Listen, Registration, Rule, Upstream, UpstreamUrl};

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Keep the data in this folder; else it goes into a temporary one that is removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen, on loopback; else 127.0.0.1:8080, or a free port when that is taken
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    listen: Option<SocketAddr>,
}

/// Everybody who reaches the demo can let themselves in, over plain HTTP.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "is no address with a port, such as 127.0.0.1:8080".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("the demo speaks plain HTTP and anybody can register: it listens on loopback only".to_owned())
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let cant = |what: &str, error: &io::Error| Failure::Failed(format!("{what}: {error}"));
    let listen = match arguments.listen {
        Some(address) if address.port() == 0 => free_port(address).map_err(|error| cant("no port is free", &error))?,
        Some(address) => address,
        None => free_port(DEFAULT_LISTEN).map_err(|error| cant("no port is free", &error))?,
    };
    let mut config = Config::default();
    let default_admin = config.admin.listen.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9090));
    let admin = free_port(default_admin).map_err(|error| cant("no port is free", &error))?;
    let folder = Folder::choose(arguments.data).map_err(|error| cant("can't make a folder for the data", &error))?;
    let upstream = DemoUpstream::start().map_err(|error| cant("can't start the page behind the demo", &error))?;

    config.server.listen = vec![Listen::Tcp(listen)];
    config.admin.listen = Some(admin);
    folder.path().clone_into(&mut config.storage.path);
    config.accounts.registration = Registration::Open;
    let address = upstream.address();
    config.upstreams = vec![Upstream::new("demo", UpstreamUrl::Tcp { tls: false, host: address.ip().to_string(), port: address.port() })];
    let rule = |path: &str, access| Rule::new(format!("demo {path:?}"), path, access);
    config.rules = vec![rule("/public/**", Access::Public), rule("/admin/**", Access::TwoFactor)];

    output::text(&welcome(listen, admin, &folder))?;
    let notice = "registration is open: everybody who reaches the demo can make an account under any address".to_owned();
    let served = app::serve(config, vec![notice], None).map_err(|error| Failure::failed(&error));
    upstream.stop();
    served
}

fn welcome(listen: SocketAddr, admin: SocketAddr, folder: &Folder) -> String {
    let data = match folder {
        Folder::Kept(path) => format!("{} (kept)", path.display()),
        Folder::Temporary(path) => format!("{} (removed at the end)", path.display()),
    };
    format!(
        "nullpass demo

  open        http://{listen}/          register, sign in, and see what the application is told
  no sign-in  http://{listen}/public/
  two-factor  http://{listen}/admin/    asks for a second factor
  operators   http://{admin}/readyz, http://{admin}/metrics
  data        {data}
  stop        Ctrl-C

"
    )
}

/// `wanted`, or a port of the same address that nobody uses when it is taken. The server binds it a moment later: who
/// takes it in between makes the start fail, with a clear word.
fn free_port(wanted: SocketAddr) -> io::Result<SocketAddr> {
    let bound = TcpListener::bind(wanted).or_else(|_| TcpListener::bind(SocketAddr::new(wanted.ip(), 0)))?;
    bound.local_addr()
}

/// Where the data goes. A temporary folder goes when this is dropped.
#[derive(Debug)]
enum Folder {
    Kept(PathBuf),
    Temporary(PathBuf),
}

impl Folder {
    fn choose(data: Option<PathBuf>) -> io::Result<Self> {
        if let Some(path) = data {
            return Ok(Self::Kept(path));
        }
        // Making it fails if something has this name already, a link too, so that nobody can prepare one for us. Short,
        // because the path of the socket in it may only have some hundred bytes, and TMPDIR can be long already.
        let (_, random) = uuid::Uuid::now_v7().as_u64_pair();
        let path = std::env::temp_dir().join(format!("nullpass-{:08x}", random & 0xffff_ffff));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self::Temporary(path))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) | Self::Temporary(path) => path,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        match self {
            Self::Kept(_) => {}
            Self::Temporary(path) => {
                if let Err(error) = std::fs::remove_dir_all(&*path) {
                    output::note(&format!("can't remove the demo's data in {}: {error}", path.display()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn listens_on_loopback_only() {
        assert!(loopback("127.0.0.1:8080").is_ok());
        assert!(loopback("[::1]:0").is_ok());
        for bad in ["0.0.0.0:8080", "[::]:8080", "10.0.0.1:80", "localhost:80", "8080", ""] {
            assert!(loopback(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_taken_port_is_replaced() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        let free = free_port(address).unwrap();
        assert_ne!(free.port(), address.port());
        assert_eq!(free.ip(), address.ip());
    }

    #[test]
    fn the_temporary_folder_is_private_and_goes() {
        let folder = Folder::choose(None).unwrap();
        let path = folder.path().to_owned();
        assert!(path.file_name().is_some_and(|name| name.len() <= 17), "room for the socket's path: {}", path.display());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("x"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_named_folder_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(Folder::choose(Some(dir.path().to_owned())).unwrap());
        assert!(dir.path().exists());
    }
}
