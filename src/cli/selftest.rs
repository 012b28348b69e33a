//! `nullpass selftest`: the corpus of attacks, sent to an instance that runs.

use std::path::PathBuf;

use clap::Args;

use super::table::{Table, harmless};
use super::{Failure, output, state};
use crate::selftest::instance::Instance;
use crate::selftest::run::{Plan, Report, Surprise};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The address of the instance, without a path
    #[arg(long, value_name = "URL")]
    against: String,
    /// A host that is yours to test although it is not this machine; repeatable
    #[arg(long = "allow-host", value_name = "HOST")]
    allow_hosts: Vec<String>,
    /// PEM certificates to trust in the place of this machine's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// server.prefix of the instance
    #[arg(long, value_name = "PATH", default_value = "/_auth", value_parser = path)]
    prefix: String,
    /// A path of the instance below which everything asks for a session
    #[arg(long, value_name = "PATH", default_value = "/admin", value_parser = path)]
    protected: String,
    /// A path of the instance below which nothing does
    #[arg(long, value_name = "PATH", default_value = "/public", value_parser = path)]
    public: String,
    /// Requests a second, at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Test what isn't nullpass too, for comparison
    #[arg(long)]
    any_server: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A path of whole segments that mean themselves.
fn path(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    if text.len() > 1 && text.starts_with('/') && !text.ends_with('/') && !text.contains("//") && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("a path such as /admin, of letters, digits and - _ . ~".to_owned())
    }
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let plan = Plan {
        prefix: arguments.prefix.clone(),
        protected: arguments.protected.clone(),
        public: arguments.public.clone(),
        rate: arguments.rate,
        any_server: arguments.any_server,
    };
    let report = state::runtime()?.block_on(async {
        let instance = Instance::find(&arguments.against, &arguments.allow_hosts, arguments.ca.as_deref());
        let instance = instance.await.map_err(|error| Failure::Usage(error.to_string()))?;
        plan.run(&instance).await.map_err(|error| Failure::failed(&error))
    })?;
    if arguments.json {
        output::json(&report)?;
    } else {
        output::text(&shown(&report, &plan))?;
    }
    match report.surprises.len() {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} surprises"))),
    }
}

fn shown(report: &Report, plan: &Plan) -> String {
    let mut table = Table::new(["FAMILY", "SENT", "REFUSED", "PASSED", "SURPRISES"]);
    let row = |name: &str, sum: [usize; 4]| {
        let [sent, refused, passed, surprises] = sum.map(|count| count.to_string());
        [name.to_owned(), sent, refused, passed, surprises]
    };
    let mut all = [0; 4];
    for family in &report.families {
        let sum = [family.sent, family.refused, family.passed, family.surprises];
        all = [all[0] + sum[0], all[1] + sum[1], all[2] + sum[2], all[3] + sum[3]];
        table.row(row(&family.family, sum));
    }
    table.row(row("all", all));
    let mut lines = vec![table.render()];
    lines.push(format!(
        "{} requests, those for comparison too; {} cases take an account and were not sent.",
        report.requests, report.not_sent
    ));
    if !report.protected_is_protected {
        let what = "whether a way leads round the rules can't be told. Name a path that does: --protected PATH.";
        lines.push(format!("Nothing asks for a session at {}/x: {what}", plan.protected));
    }
    if !report.public_is_public {
        let what = "what is taken off public requests can't be seen. Name a path that is: --public PATH.";
        lines.push(format!("Nothing is public at {}/a: {what}", plan.public));
    }
    for Surprise { id, family, about, source, sent, problem } in &report.surprises {
        lines.push(format!("\n{id} ({family}: {about}; {source})\n  sent: {sent}\n  {}", harmless(problem)));
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_themselves() {
        for good in ["/admin", "/a/b-c_d.e~f", "/_auth"] {
            assert_eq!(path(good).as_deref(), Ok(good));
        }
        for bad in ["", "/", "admin", "/admin/", "//admin", "/a b", "/a?b", "/a;b", "/a%2f"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
