//! Tests of the imagegen program and of its documents, with temporary folders and openssl.
//!
//! All are one test program, because linking takes longer than running.

mod certificate_life;
mod certificate_names;
mod certificates_of_kubelets;
mod cluster_image;
mod commands;
mod docs;
mod encrypted_documents;
mod encrypted_state;
mod flash;
mod foreign_folders;
mod interrupted;
mod iso;
mod package;
mod package_agrees;
mod package_docker;
mod package_images;
mod package_scripts;
mod package_verdict;
mod pki;
mod pki_status;
mod refusals;
mod refused_packages;
mod rotation;
mod rotation_refusals;
mod secret_scan;
mod secure_boot;
mod serve;
mod signed_documents;
mod topology;
mod topology_cases;
mod upstream;
mod work;
