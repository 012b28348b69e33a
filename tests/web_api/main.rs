//! The JSON API and the pages from outside: what each requirement of the security lessons demands of them.

#[cfg(test)]
mod account;
#[cfg(test)]
#[path = "../support/backend.rs"]
mod backend;
#[cfg(test)]
mod every_page;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod requirements;
#[cfg(test)]
mod strictness;
#[cfg(test)]
mod world;
