//! The key of signed images in the topology.

use crate::topology_cases::only_error;
use crate::work::{PROD, Work, stderr};

fn image(options: &str) -> String {
    format!("{PROD}image: {{secure_boot: {{key: db.key, certificate: db.crt}}{options}}}\n")
}

#[test]
fn signed_image_takes_no_argument_that_leads_around_the_signature() {
    for argument in ["init=/bin/sh", "rd.break", "systemd.debug-shell", "single"] {
        for key in ["cmdline", "kernel_arguments"] {
            let text = image(&format!(", {key}: [{argument}]"));
            only_error(&text, "would let a signed image run unsigned code");
        }
    }
    let without = PROD.to_owned() + "image: {kernel_arguments: [systemd.wants=x.service]}\n";
    let work = Work::new();
    for text in [image(", cmdline: [mitigations=off]"), without] {
        work.topology(&text);
        let output = work.run(&["validate", "-t", "cluster.yaml"]);
        // The package of the example does not exist, which is another finding.
        assert!(
            !stderr(&output).contains("unsigned code"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn both_files_are_needed() {
    only_error(
        &format!("{PROD}image: {{secure_boot: {{key: db.key}}}}\n"),
        "`certificate` is missing",
    );
}
