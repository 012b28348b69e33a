//! What every proxied request of somebody who is signed in costs before it is forwarded: `cargo bench --bench hot_path`.
//! The target is under 2 µs for the look-up of a known token and the policy's decision together.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a benchmark prints, and stops when it can't go on")]

#[path = "common/fixture.rs"]
mod fixture;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fixture::{Fixture, policy};
use http::Method;
use nullpass::auth::recognise::Recognised;
use nullpass::policy::host::Host;
use nullpass::policy::path;
use nullpass::policy::rules::{Decision, Policy, RequestView};

const PATH: &str = "/api/v1/projects/42/items";

fn decide(policy: &Policy, host: &Host, fixture: &Fixture, recognised: &Recognised) -> Decision {
    let Recognised::Good(identity, _) = recognised else { panic!("not signed in") };
    let readings = path::read(black_box(PATH)).unwrap();
    let requirement = readings
        .agree(|path| {
            policy.requirement(&RequestView { host, path, method: &Method::GET, client: fixture.client, client_undeclared: false })
        })
        .unwrap();
    requirement.decide(Some(identity), false, fixture.now)
}

fn hot_path(criterion: &mut Criterion) {
    let (fixture, policy) = (Fixture::new(), policy());
    let (host, _) = Host::parse("app.example.com").unwrap();
    let recognise = || fixture.auth.recognise_known(black_box(&fixture.token), fixture.client, fixture.now).unwrap();
    assert_eq!(decide(&policy, &host, &fixture, &recognise()), Decision::Allow);
    println!("a token of {} bytes, a path of {} bytes, 10 rules of which the last matches", fixture.token.len(), PATH.len());

    criterion.bench_function("recognise a known token", |bencher| bencher.iter(recognise));
    let recognised = recognise();
    criterion.bench_function("find the rule and decide", |bencher| bencher.iter(|| decide(&policy, &host, &fixture, &recognised)));
    criterion.bench_function("both together (target: under 2 µs)", |bencher| {
        bencher.iter(|| decide(&policy, &host, &fixture, &recognise()));
    });
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
