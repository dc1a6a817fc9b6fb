//! imagegen's front half, judged from outside: the built program on temporary folders, and openssl.
//!
//! One program for all, because linking it costs more than running it.

mod cli;
mod interrupted;
mod leaks;
mod pki;
mod topology;
mod work;
