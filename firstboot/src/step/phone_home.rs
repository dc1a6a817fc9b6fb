//! `phone_home`: tells a server that the host is configured, with its names and SSH host keys.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ureq::Agent;

use super::Step;
use super::final_message::filled;
use crate::applied::{Applied, digest};
use crate::report::Reporter;
use crate::system::files::Root;
use crate::wait::Backoff;
use userdata::cloud_config::PhoneHome as Wanted;

/// For one try: a server that does not answer must not hold the host.
const WITHIN: Duration = Duration::from_secs(10);
/// In the record.
const KEY: &str = "phone-home";

/// Once for an instance. A server that does not answer is reported, and the boot continues.
#[derive(Debug)]
pub struct PhoneHome {
    pub root: Root,
    pub wanted: Wanted,
    pub instance: String,
    pub hostname: String,
    pub fqdn: Option<String>,
}

impl fmt::Display for PhoneHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The query may hold a token.
        let url = self.url();
        write!(f, "report to {}", url.split('?').next().unwrap_or_default())
    }
}

impl Step for PhoneHome {
    fn name(&self) -> &'static str {
        "phone-home"
    }

    fn is_done(&self) -> Result<bool> {
        Ok(Applied::open(&self.root, &self.instance)?.has(KEY, &self.parts()))
    }

    fn apply(&self, report: &mut Reporter) -> Result<()> {
        let mut backoff = Backoff::new(&self.hostname);
        let mut result = self.send();
        for _ in 1..self.wanted.tries {
            if result.is_ok() {
                break;
            }
            backoff.pause();
            result = self.send();
        }
        if let Err(error) = result {
            let tries = self.wanted.tries;
            report.degraded(&format!("phone_home: {error:#}, {tries} tries"));
        }
        // Not again: cloud-init does not repeat it at a later boot either.
        let mut record = Applied::open(&self.root, &self.instance)?;
        record.set(KEY, self.parts());
        record.save()
    }

    fn needs_machine(&self) -> bool {
        true
    }
}

impl PhoneHome {
    fn url(&self) -> String {
        let instance = |name: &str| (name == "instance_id").then(|| self.instance.clone());
        filled(&self.wanted.url, instance)
    }

    fn send(&self) -> Result<()> {
        let config = Agent::config_builder()
            .timeout_global(Some(WITHIN))
            .http_status_as_error(false)
            .max_redirects(0)
            .build();
        let form = self.form()?;
        let answer = Agent::new_with_config(config)
            .post(self.url())
            .send_form(form)
            .context("sending the report")?;
        let status = answer.status();
        ensure!(status.is_success(), "the server answers {status}");
        Ok(())
    }

    /// The fields in the order of the document; `N/A` for what the host does not have.
    fn form(&self) -> Result<Vec<(String, String)>> {
        let mut form = Vec::new();
        for key in &self.wanted.post {
            let value = match key.as_str() {
                "instance_id" => Some(self.instance.clone()),
                "hostname" => Some(self.hostname.clone()),
                "fqdn" => Some(self.fqdn.clone().unwrap_or_else(|| self.hostname.clone())),
                key => {
                    let kind = key.trim_start_matches("pub_key_");
                    let path = format!("/etc/ssh/ssh_host_{kind}_key.pub");
                    let bytes = self.root.read(path)?;
                    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                }
            };
            form.push((key.clone(), value.unwrap_or_else(|| "N/A".to_owned())));
        }
        Ok(form)
    }

    fn parts(&self) -> Vec<String> {
        let post = self.wanted.post.join(",");
        vec![digest([self.wanted.url.as_bytes(), post.as_bytes()])]
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::system::files::Attributes;
    use userdata::cloud_config::POST;

    /// Answers each connection with the next status, and returns the bodies.
    fn server(answers: &'static [&'static str]) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let bodies = thread::spawn(move || {
            let answer = |status: &&str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut line, mut length, mut head) = (String::new(), 0, String::new());
                while reader.read_line(&mut line).unwrap() > 2 {
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head.push_str(&std::mem::take(&mut line));
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(reply.as_bytes()).unwrap();
                let path = head.split(' ').nth(1).unwrap().to_owned();
                format!("{path} {}", String::from_utf8(body).unwrap())
            };
            answers.iter().map(answer).collect()
        });
        (base, bodies)
    }

    fn step(root: &Root, url: String, post: &[&str], tries: u32) -> PhoneHome {
        PhoneHome {
            root: root.clone(),
            wanted: Wanted {
                url,
                post: post.iter().map(|key| (*key).to_owned()).collect(),
                tries,
            },
            instance: "i-1".to_owned(),
            hostname: "h".to_owned(),
            fqdn: Some("h.example".to_owned()),
        }
    }

    #[test]
    fn report_has_names_and_keys_and_is_sent_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let mode = Attributes::mode(0o644);
        root.write("/etc/ssh/ssh_host_rsa_key.pub", b"ssh-rsa AA+B\n", mode)
            .unwrap();
        let (base, bodies) = server(&["503 Busy", "200 OK"]);
        let step = step(&root, format!("{base}/$INSTANCE_ID/?t=1"), &POST, 2);
        assert_eq!(step.to_string(), format!("report to {base}/i-1/"));
        step.apply(&mut Reporter::silent(&root)).unwrap();
        assert!(step.is_done().unwrap());
        let bodies = bodies.join().unwrap();
        assert_eq!(bodies[0], bodies[1]);
        assert_eq!(
            bodies[1],
            "/i-1/?t=1 pub_key_rsa=ssh-rsa+AA%2BB%0A&pub_key_ecdsa=N%2FA&pub_key_ed25519=N%2FA&\
             instance_id=i-1&hostname=h&fqdn=h.example"
        );
    }

    #[test]
    fn server_that_refuses_does_not_stop_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (base, bodies) = server(&["302 Elsewhere"]);
        let step = step(&root, format!("{base}/"), &["hostname"], 1);
        step.apply(&mut Reporter::silent(&root)).unwrap();
        assert!(step.is_done().unwrap());
        assert_eq!(bodies.join().unwrap(), ["/ hostname=h"]);
    }
}
