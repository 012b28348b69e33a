//! The JSON API and the pages from outside: what each requirement of the security lessons demands of them.

#[cfg(test)]
mod pages;
#[cfg(test)]
mod requirements;
#[cfg(test)]
mod strictness;
#[cfg(test)]
mod world;
