//! imagegen's front half, judged from outside: the built program on temporary folders, and openssl.
//!
//! One program for all, because linking it costs more than running it.

mod cli;
mod docs;
mod interrupted;
mod leaks;
mod package;
mod pki;
mod refusals;
mod topology;
mod work;
