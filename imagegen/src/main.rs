//! `imagegen`: parses, does what was asked, prints what went wrong. Everything else is in the library.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use build_tools::cache::Cache;
use build_tools::process::side_by_side;
use build_tools::progress::Progress;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use imagegen::cli::{Cli, Command, Common};
use imagegen::make::{self, Input, Outcome, Refused, Request};
use imagegen::output::Folder;
use imagegen::package::Package;
use imagegen::{image, show, topology};
use yaml::Severity;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.common.verbose);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Refused>() {
            Some(refused) => {
                let errors = refused
                    .0
                    .0
                    .iter()
                    .filter(|found| found.severity == Severity::Error)
                    .count();
                eprintln!(
                    "{refused}\n\nimagegen: the topology has {errors} error(s); nothing was written"
                );
                ExitCode::from(3)
            }
            None => {
                eprintln!("imagegen: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(cli: &Cli) -> Result<()> {
    let progress = Progress::stderr();
    match &cli.command {
        None => everything(&cli.common, &progress),
        Some(Command::Validate) => validate(&request(&cli.common)),
        Some(Command::Plan { json }) => plan(&request(&cli.common), *json),
        Some(Command::Userdata) => userdata(&request(&cli.common)),
        Some(Command::Image) => node_image_only(&cli.common, &progress),
        Some(Command::Package { kubernetes }) => {
            package(&cli.common, kubernetes.as_deref(), &progress)
        }
        Some(Command::Schema) => schema(),
        Some(Command::Completions { shell }) => completions(*shell),
        Some(Command::Man { dir }) => man(dir.as_deref()),
    }
}

/// Without a topology there is nothing to do: wrong usage, exit status 2.
fn request(common: &Common) -> Request {
    let Some(topology) = common.topology.clone() else {
        Cli::command()
            .error(
                ErrorKind::MissingRequiredArgument,
                "no topology; give one with `--topology cluster.yaml`",
            )
            .exit()
    };
    Request {
        topology,
        package: common.package.clone(),
        output: common.output.clone(),
    }
}

fn everything(common: &Common, progress: &Progress) -> Result<()> {
    let request = &request(common);
    let input = read(request)?;
    let ready = Ready::check(common, request, &input)?;
    let folder = Folder::open(&make::output(request, &input.plan))?;
    report(
        &make::userdata(&input, &folder)?,
        "documents, seeds and admin.conf",
    );
    report(
        &node_image(ready, &input, &folder, progress)?,
        "the node image",
    );
    Ok(())
}

fn userdata(request: &Request) -> Result<()> {
    let input = read(request)?;
    let folder = Folder::open(&make::output(request, &input.plan))?;
    report(
        &make::userdata(&input, &folder)?,
        "documents, seeds and admin.conf",
    );
    Ok(())
}

fn node_image_only(common: &Common, progress: &Progress) -> Result<()> {
    let request = &request(common);
    let input = read(request)?;
    let ready = Ready::check(common, request, &input)?;
    let folder = Folder::open(&make::output(request, &input.plan))?;
    report(
        &node_image(ready, &input, &folder, progress)?,
        "the node image",
    );
    Ok(())
}

fn validate(request: &Request) -> Result<()> {
    let input = with_warnings(make::validate(request)?);
    println!(
        "{}: good: cluster `{}`, {} hosts",
        request.topology.display(),
        input.plan.name,
        input.plan.hosts.len()
    );
    Ok(())
}

fn plan(request: &Request, json: bool) -> Result<()> {
    let Input { plan, .. } = read(request)?;
    let (package, output) = (make::package(request, &plan), make::output(request, &plan));
    if json {
        let value = show::json(&plan, package.as_deref(), &output);
        print(&format!(
            "{}\n",
            serde_json::to_string_pretty(&value).context("writing the plan")?
        ))
    } else {
        print(&show::text(&plan, package.as_deref(), &output))
    }
}

/// What an image is made from besides the topology, found good before anything is written.
struct Ready {
    programs: PathBuf,
    /// `None`: the default one, which is built where it is not in the cache.
    package: Option<Package>,
    qcow2: bool,
}

impl Ready {
    fn check(common: &Common, request: &Request, input: &Input) -> Result<Self> {
        image::check_privilege()?;
        Ok(Self {
            programs: image::programs::folder(common.programs.as_deref())?,
            package: make::open_package(request, input)?,
            qcow2: common.qcow2,
        })
    }
}

/// The node image; nothing is done where it is there and was made from the same.
fn node_image(
    ready: Ready,
    input: &Input,
    folder: &Folder,
    progress: &Progress,
) -> Result<Outcome> {
    let cache = Cache::open()?;
    let package = match ready.package {
        Some(package) => package,
        None => {
            // The first time both take minutes.
            let (package, ()) = side_by_side(
                || default_package::default_package(&cache, progress),
                || image::prepare(&cache, input.plan.image.kernel, progress),
            );
            Package::open(&package?)?
        }
    };
    let request = image::ImageRequest {
        package: &package,
        plan: &input.plan.image,
        programs: &ready.programs,
        seed: Vec::new(),
    };
    let build = |out: &Path, work: &Path| image::build(&request, out, work, &cache, progress);
    let convert = |raw: &Path, out: &Path| image::qcow2::convert(raw, out, &cache, progress);
    let qcow2 = ready.qcow2.then_some(convert);
    make::image(input, folder, &request.key()?, build, qcow2)
}

/// With `--package`, what is in it; without, the default one at `--output`.
fn package(common: &Common, kubernetes: Option<&str>, progress: &Progress) -> Result<()> {
    let Some(path) = &common.package else {
        let output = common
            .output
            .clone()
            .unwrap_or_else(|| PathBuf::from("kube.tar.zst"));
        return default_package::write_default(kubernetes, &Cache::open()?, &output, progress);
    };
    let package = Package::open(path)?;
    let mut text = format!(
        "package     {}\nkubernetes  {}\ndigest      {}\nsize        {} MiB\n",
        path.display(),
        package.kubernetes_version()?,
        package.digest(),
        package.size() >> 20
    );
    for name in package.names() {
        text.push_str(&format!("  {name}\n"));
    }
    print(&text)
}

fn schema() -> Result<()> {
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(topology::Topology))
        .context("writing the schema")?;
    print(&format!("{schema}\n"))
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "imagegen", &mut script);
    print(&String::from_utf8_lossy(&script))
}

fn man(dir: Option<&Path>) -> Result<()> {
    match dir {
        Some(dir) => clap_mangen::generate_to(Cli::command(), dir)
            .with_context(|| format!("writing manual pages into `{}`", dir.display())),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command())
                .render(&mut page)
                .context("writing the manual page")?;
            print(&String::from_utf8_lossy(&page))
        }
    }
}

/// Reads the topology and tells its warnings.
fn read(request: &Request) -> Result<Input> {
    Ok(with_warnings(make::read(request)?))
}

fn with_warnings(input: Input) -> Input {
    for warning in &input.warnings {
        eprintln!("{warning}\n");
    }
    input
}

fn report(outcome: &Outcome, what: &str) {
    let folder = outcome.folder.display();
    if outcome.changed {
        println!("`{folder}`: made {what} for {} hosts", outcome.hosts);
    } else {
        println!(
            "`{folder}`: {what}: nothing to do, {} hosts are as they should be",
            outcome.hosts
        );
    }
}

/// Prints a whole text; whoever closes the pipe early (`| head`) has seen enough.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

fn log_to_stderr(verbose: bool) {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            if record.level() <= log::max_level() {
                eprintln!(
                    "{}: {}",
                    record.level().as_str().to_lowercase(),
                    record.args()
                );
            }
        }

        fn flush(&self) {}
    }
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(if verbose {
            log::LevelFilter::Debug
        } else {
            log::LevelFilter::Warn
        });
    }
}
