//! Looks after the certificates: whether the files changed, what ACME has to do next, and whether one is about to end.
//!
//! The files are read and compared every two seconds instead of being watched by inotify: Kubernetes swaps a symlink
//! two levels up, ACME clients rename, network file systems tell nobody, and a watch on the wrong level is silent when
//! it matters. Reading a few kilobytes costs less than being clever about them. A pair that is half written (the
//! certificate is new, the key still old) does not fit and is refused; the next look finds it whole.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::acme::{self, Step, Work};
use super::{Certificate, Tls};
use crate::clock::Timestamp;
use crate::tasks::Tasks;

/// From one look at the files to the next.
const LOOK: Duration = Duration::from_secs(2);

/// A certificate that ends so soon should have been replaced by now.
const SOON: Duration = Duration::from_hours(14 * 24);

/// From one warning of it to the next.
const WARN: Duration = Duration::from_hours(24);

/// Begins to look, until `tasks` stop.
pub(super) fn start(tls: &Arc<Tls>, tasks: &Tasks) {
    tasks.spawn(run(Arc::clone(tls), tasks.clone()));
}

async fn run(tls: Arc<Tls>, tasks: Tasks) {
    let mut stopped = std::pin::pin!(tasks.stopped());
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut work = taken(&tls).unwrap_or(Work::Nothing);
    let mut warned: Option<Timestamp> = None;
    loop {
        tokio::select! {
            () = stopped.as_mut() => return,
            _ = looks.tick() => {
                let looking = Arc::clone(&tls);
                // The disk may be slow, and whoever else runs here should not wait for it.
                if tasks.spawn_blocking(move || looking.look()).await.is_err() {
                    tracing::error!("TLS: the certificate files could not be looked at");
                }
                let now = tls.clock.now();
                if warned.is_none_or(|last| now.since(last) >= WARN) {
                    warned = Some(now);
                    warn(&tls, now);
                }
            }
            () = tls.work_changed.notified() => if let Some(changed) = taken(&tls) {
                work = changed;
            },
            step = acme::next(&mut work) => note(&tls, &step),
        }
    }
}

fn taken(tls: &Tls) -> Option<Work> {
    tls.new_work.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn note(tls: &Tls, step: &Step) {
    match step {
        Step::Deployed { new } => {
            if *new {
                tls.counters.acme_orders.fetch_add(1, Ordering::Relaxed);
            }
            tracing::info!(new, "ACME: a certificate is in use");
        }
        Step::Kept => tracing::debug!("ACME: kept on disk"),
        Step::Failed(error) => {
            tls.counters.acme_failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(error, "ACME: no certificate could be got; it is tried again, later each time");
        }
    }
}

fn warn(tls: &Tls, now: Timestamp) {
    for (certificate, renewed) in tls.each_certificate() {
        let (name, not_after) = (certificate.name(), certificate.not_after);
        if not_after <= now {
            tracing::error!(name, %not_after, "TLS: this certificate has ended; clients refuse it");
        } else if certificate.not_before > now {
            tracing::warn!(name, not_before = %certificate.not_before, "TLS: this certificate is not good yet");
        } else if is_due(&certificate, renewed, now) {
            tracing::warn!(name, %not_after, "TLS: this certificate ends soon");
        }
    }
}

/// Whether it should have been replaced by now. Some of ACME's live for days only; they are renewed when a third is left.
fn is_due(certificate: &Certificate, renewed: bool, now: Timestamp) -> bool {
    let left = certificate.not_after.since(now);
    let life = certificate.not_after.since(certificate.not_before);
    left <= SOON && (!renewed || left <= life / 4)
}
