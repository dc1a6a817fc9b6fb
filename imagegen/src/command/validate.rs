//! `imagegen validate`

use anyhow::Result;
use imagegen::cli::Common;
use imagegen::pipeline;

pub(crate) fn run(common: &Common) -> Result<()> {
    let request = super::request(common);
    let plan = super::print_warnings(pipeline::validate(&request)?).plan;
    println!(
        "{}: valid: cluster `{}`, {} hosts",
        request.topology.display(),
        plan.name,
        plan.hosts.len()
    );
    Ok(())
}
