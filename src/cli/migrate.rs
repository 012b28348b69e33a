//! `nullpass migrate`.

use clap::{Args, ValueEnum};

use super::progress::{Meter, number};
use super::table::Table;
use super::{ConfigFile, Failure, output, state};
use crate::admin::migrate::{self as steps, Error, Progress, Report};
use crate::app::migrate::{self as ends, name};
use crate::config::{Backend, Config};
use crate::store::transfer::{Kind, Sum, Tally, hex};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Where the state is now; nothing there is changed
    #[arg(long, value_name = "BACKEND")]
    from: Store,
    /// Where it shall be; there must be none yet
    #[arg(long, value_name = "BACKEND")]
    to: Store,
    /// Only say what would be done: the SQL that would change the database, and what would be carried
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Store {
    /// The data folder, storage.path
    Sled,
    /// The database, storage.url
    Postgres,
}

impl From<Store> for Backend {
    fn from(store: Store) -> Self {
        match store {
            Store::Sled => Self::Sled,
            Store::Postgres => Self::Postgres,
        }
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { file, from, to, dry_run } = arguments;
    if from == to {
        return Err(Failure::Usage("--from and --to are the same: a state is carried from one kind of store to the other".to_owned()));
    }
    let (from, to) = (from.into(), to.into());
    let config = state::load(&file)?;
    if config.storage.postgres.is_none() {
        return Err(Failure::Usage("storage.url (or storage.url_file) is missing: both ends are read from one configuration".to_owned()));
    }
    let runtime = state::runtime()?;
    let done = runtime.block_on(async {
        let work = async {
            if dry_run { plan(&config, from, to).await } else { carry(&config, from, to).await }
        };
        tokio::select! {
            done = work => done,
            // Where it is dropped does not matter, as it does not where the process is killed.
            _ = tokio::signal::ctrl_c() => Err(Failure::Failed("stopped. Repeat the same command to go on; the source is as it was".to_owned())),
        }
    });
    // A blocked thread must not keep whoever pressed the key.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    done
}

async fn carry(config: &Config, from: Backend, to: Backend) -> Result<(), Failure> {
    let (source, target) = ends::open(config, from, to).await.map_err(|error| Failure::failed(&error))?;
    let mut meter = Meter::new();
    let done = steps::carry(&*source, name(from), &*target, &mut |progress: Progress| meter.show(progress)).await;
    meter.end();
    match done {
        Ok(report) => {
            if report.resumed > 0 {
                output::note(&format!("{} of them were there from an earlier attempt", number(report.resumed)));
            }
            output::text(&compared(&report))?;
            output::line(&format!("everything is in {}, sha256 {}", name(to), hex(report.target.digest().as_bytes())))?;
            output::note(&ends::what_then(config, to));
            Ok(())
        }
        Err(Error::Different(report)) => {
            output::text(&compared(&report))?;
            Err(Failure::failed(&Error::Different(report)))
        }
        Err(error) => Err(Failure::failed(&error)),
    }
}

async fn plan(config: &Config, from: Backend, to: Backend) -> Result<(), Failure> {
    let failed = |error: ends::Error| Failure::failed(&error);
    let source = ends::open_source(config, from).await.map_err(failed)?;
    for pending in ends::pending(config, to).await.map_err(failed)? {
        output::line(&format!("-- {}: {}\n{}", pending.number, pending.name, pending.sql.trim_end()))?;
    }
    let mut meter = Meter::new();
    let tally = steps::survey(&*source, &mut |progress: Progress| meter.show(progress)).await;
    meter.end();
    output::text(&counted(&tally.map_err(|error| Failure::failed(&error))?))?;
    output::note(&format!("this is what would be carried from {} to {}; nothing was written", name(from), name(to)));
    Ok(())
}

fn counted(tally: &Tally) -> String {
    let mut table = Table::new(["", "COUNT", "SHA-256"]);
    for (kind, sum) in tally.parts() {
        table.row([kind.to_string(), number(sum.count), sum.short()]);
    }
    table.render()
}

fn compared(report: &Report) -> String {
    let mut table = Table::new(["", "SOURCE", "TARGET", "SHA-256", ""]);
    for (kind, source, target) in report.rows() {
        table.row(row(kind, source, target));
    }
    table.render()
}

fn row(kind: Kind, source: Sum, target: Sum) -> [String; 5] {
    let (digest, verdict) =
        if source == target { (source.short(), "same") } else { (format!("{} {}", source.short(), target.short()), "DIFFERENT") };
    [kind.to_string(), number(source.count), number(target.count), digest, verdict.to_owned()]
}
