// Process 1 of an initrd test: loads modules, runs one program, reports its status, powers off.
// rustc compiles this file alone, without crates: it must be static and build in a second.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

unsafe extern "C" {
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_char,
    ) -> c_int;
    fn reboot(command: c_int) -> c_int;
    fn sync();
    fn syscall(number: c_long, ...) -> c_long;
    fn tcgetattr(fd: c_int, settings: *mut Termios) -> c_int;
    fn tcsetattr(fd: c_int, when: c_int, settings: *const Termios) -> c_int;
    fn cfmakeraw(settings: *mut Termios);
}

/// `struct termios` is 60 bytes with the C library's fields; this is larger.
#[repr(C, align(4))]
struct Termios([u8; 256]);

const FINIT_MODULE: c_long = 313;
const MODULE_INIT_COMPRESSED_FILE: c_int = 4;
const POWER_OFF: c_int = 0x4321_fedc;

fn main() {
    let report = work().unwrap_or_else(|error| format!("error {error}"));
    // ttyS2 carries one line: the status.
    if let Ok(mut status) = raw_serial("/dev/ttyS2") {
        let _ = writeln!(status, "{report}");
        let _ = status.flush();
    }
    // SAFETY: system calls without pointers, after all other work is done.
    unsafe {
        sync();
        reboot(POWER_OFF);
    }
}

fn work() -> Result<String, String> {
    for (source, target, kind) in [
        ("dev", "/dev", "devtmpfs"),
        ("proc", "/proc", "proc"),
        ("sys", "/sys", "sysfs"),
        ("tmp", "/tmp", "tmpfs"),
        ("run", "/run", "tmpfs"),
    ] {
        mount_at(source, target, kind)?;
    }
    let modules = fs::read_to_string("/test/modules").unwrap_or_default();
    for name in modules.lines() {
        load(name)?;
    }
    let arguments = fs::read_to_string("/test/arguments")
        .map_err(|error| format!("reading `/test/arguments`: {error}"))?;
    let output =
        raw_serial("/dev/ttyS1").map_err(|error| format!("opening `/dev/ttyS1`: {error}"))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let status = Command::new("/test/program")
        .args(arguments.split_terminator('\0'))
        .env("PATH", "/bin:/test")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .map_err(|error| format!("starting `/test/program`: {error}"))?;
    Ok(match status.code() {
        Some(code) => format!("exit {code}"),
        None => format!("error {status}"),
    })
}

fn mount_at(source: &str, target: &str, kind: &str) -> Result<(), String> {
    fs::create_dir_all(target).map_err(|error| format!("creating `{target}`: {error}"))?;
    let [source, at, kind] =
        [source, target, kind].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: three NUL-terminated strings outlive the call, and data may be null.
    let result = unsafe {
        mount(
            source.as_ptr(),
            at.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if result != 0 {
        return Err(format!(
            "mounting `{target}`: {}",
            io::Error::last_os_error()
        ));
    }
    Ok(())
}

fn load(name: &str) -> Result<(), String> {
    let path = format!("/test/modules.d/{name}");
    let file = File::open(&path).map_err(|error| format!("opening `{path}`: {error}"))?;
    let flags = if name.ends_with(".ko") {
        0
    } else {
        MODULE_INIT_COMPRESSED_FILE
    };
    // SAFETY: the descriptor is open and the parameter string is NUL-terminated.
    let result = unsafe { syscall(FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), flags) };
    if result != 0 {
        return Err(format!(
            "loading module `{name}`: {}",
            io::Error::last_os_error()
        ));
    }
    Ok(())
}

// In raw mode, because the terminal layer would write a carriage return before every newline.
fn raw_serial(path: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut settings = Termios([0; 256]);
    // SAFETY: the descriptor is open; the buffer is larger than `struct termios` and as aligned.
    unsafe {
        if tcgetattr(file.as_raw_fd(), &mut settings) != 0 {
            return Err(io::Error::last_os_error());
        }
        cfmakeraw(&mut settings);
        tcsetattr(file.as_raw_fd(), 0, &settings);
    }
    Ok(file)
}
