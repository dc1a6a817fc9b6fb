//! imagegen's front half, judged from outside: the built program on temporary folders, and openssl.
//!
//! One program for all, because linking it costs more than running it.

mod cli;
mod docs;
mod interrupted;
mod package;
mod pki;
mod refusals;
mod secret_scan;
mod topology;
mod work;
