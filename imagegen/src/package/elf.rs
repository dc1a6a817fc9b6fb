//! The header of an ELF program: the machine that it runs on.

/// What the header of an ELF file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elf {
    /// `e_machine`; 0 names no machine.
    pub(crate) machine: u16,
    /// 64-bit, little-endian.
    pub(crate) wide: bool,
}

/// EM_X86_64.
const AMD64: u16 = 62;

impl Elf {
    /// Reads the first bytes of a file; `None` if it is no ELF file.
    pub(crate) fn read(start: &[u8]) -> Option<Self> {
        if !start.starts_with(b"\x7fELF") {
            return None;
        }
        let machine = start
            .get(18..20)
            .map_or([0, 0], |bytes| [bytes[0], bytes[1]]);
        let big_endian = start.get(5) == Some(&2);
        Some(Self {
            machine: if big_endian {
                u16::from_be_bytes(machine)
            } else {
                u16::from_le_bytes(machine)
            },
            wide: start.get(4) == Some(&2) && !big_endian,
        })
    }

    /// Whether a node image, which is for amd64, can run it. A header without a machine is left to
    /// the kernel.
    pub(crate) fn runs_here(self) -> bool {
        self.wide && matches!(self.machine, AMD64 | 0)
    }

    /// The machine, as `uname -m` names it.
    pub(crate) fn machine(self) -> String {
        match self.machine {
            0 => "no machine".to_owned(),
            3 => "i386".to_owned(),
            8 => "mips".to_owned(),
            20 => "ppc".to_owned(),
            21 => "ppc64le".to_owned(),
            22 => "s390x".to_owned(),
            40 => "arm".to_owned(),
            AMD64 if !self.wide => "x32".to_owned(),
            AMD64 => "x86_64".to_owned(),
            183 => "aarch64".to_owned(),
            243 => "riscv64".to_owned(),
            258 => "loongarch64".to_owned(),
            other => format!("machine {other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_of_amd64_run_here() {
        let header = |class: u8, data: u8, machine: [u8; 2]| {
            let mut bytes = vec![0x7f, b'E', b'L', b'F', class, data, 1];
            bytes.resize(18, 0);
            bytes.extend(machine);
            Elf::read(&bytes).expect("an ELF header")
        };
        assert!(header(2, 1, [62, 0]).runs_here());
        assert!(header(2, 1, [0, 0]).runs_here());
        for (elf, name) in [
            (header(2, 1, [183, 0]), "aarch64"),
            (header(1, 1, [3, 0]), "i386"),
            (header(1, 1, [40, 0]), "arm"),
            (header(2, 2, [0, 22]), "s390x"),
            (header(1, 1, [62, 0]), "x32"),
        ] {
            assert!(!elf.runs_here(), "{name}");
            assert_eq!(elf.machine(), name);
        }
        assert_eq!(Elf::read(b"#!/bin/sh"), None);
    }
}
