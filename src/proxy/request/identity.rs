//! What upstreams are told about who is asking.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName};

use crate::config::{self, Encoding, IdentityHeaders, Preset};
use crate::model::{Group, Identity};
use crate::proxy::Counters;
use crate::wire::header::{self, Prepared};

/// How each upstream is told who somebody is.
#[derive(Debug)]
pub(in crate::proxy) struct IdentityFields {
    pub(super) config: IdentityHeaders,
    admin_group: Group,
    presets: Vec<Preset>,
    assertion_names: Vec<HeaderName>,
    /// Which of all that there were since the start; what an identity holds was made for one of them.
    generation: u64,
    /// The next one's.
    generations: Arc<AtomicU64>,
}

/// What an identity's slot holds: for each upstream the fields as configured, and percent-encoded for gRPC.
///
/// An identity outlives a reload, which may name fields and order upstreams otherwise: then it gets further ones.
struct Slots {
    generation: u64,
    prepared: Vec<[OnceLock<Prepared>; 2]>,
    next: OnceLock<Box<Self>>,
}

impl Slots {
    fn new(fields: &IdentityFields) -> Self {
        let prepared = fields.presets.iter().map(|_| Default::default()).collect();
        Self { generation: fields.generation, prepared, next: OnceLock::new() }
    }

    /// Those of `fields`.
    fn of(&self, fields: &IdentityFields) -> &Self {
        let mut slots = self;
        while slots.generation != fields.generation {
            slots = slots.next.get_or_init(|| Box::new(Self::new(fields)));
        }
        slots
    }
}

impl IdentityFields {
    pub(in crate::proxy) fn new(upstreams: &[config::Upstream], identity: &IdentityHeaders, admin_group: &Group) -> Self {
        Self {
            presets: upstreams.iter().map(|upstream| upstream.preset.unwrap_or(identity.preset)).collect(),
            assertion_names: header::assertion_names(identity),
            config: identity.clone(),
            admin_group: admin_group.clone(),
            generation: 0,
            generations: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Those of a new configuration. If it announces the same, what was made is good for it too.
    pub(in crate::proxy) fn reloaded(&self, upstreams: &[config::Upstream], identity: &IdentityHeaders, admin_group: &Group) -> Self {
        let new = Self::new(upstreams, identity, admin_group);
        let is_same = new.config == self.config && new.admin_group == self.admin_group && new.presets == self.presets;
        let generation = if is_same { self.generation } else { self.generations.fetch_add(1, Ordering::Relaxed) };
        Self { generation, generations: Arc::clone(&self.generations), ..new }
    }

    /// The names that an assertion travels by.
    pub(super) fn assertion_names(&self) -> &[HeaderName] {
        &self.assertion_names
    }

    /// Announces `identity`. The fields are made once for each upstream and then only copied.
    pub(super) fn set(&self, headers: &mut HeaderMap, identity: &Identity, upstream: usize, is_grpc: bool, counters: &Counters) {
        let make = || {
            let preset = self.presets.get(upstream).copied().unwrap_or(self.config.preset);
            let encoding = if is_grpc { Encoding::Percent } else { self.config.encoding };
            let prepared = header::prepare(identity, preset, encoding, &self.config, &self.admin_group);
            counters.dropped_values.fetch_add(prepared.dropped, Ordering::Relaxed);
            prepared
        };
        let slots = identity.slot.get_or_make(|| Slots::new(self)).map(|slots| slots.of(self));
        let slot = slots.and_then(|slots| slots.prepared.get(upstream)).map(|[usual, grpc]| if is_grpc { grpc } else { usual });
        let made_here;
        let prepared = if let Some(slot) = slot {
            slot.get_or_init(make)
        } else {
            made_here = make();
            &made_here
        };
        for (name, value) in &prepared.fields {
            headers.insert(name, value.clone());
        }
    }
}
