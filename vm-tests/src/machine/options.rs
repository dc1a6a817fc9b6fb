//! QEMU's command line, option by option.

/// In QEMU's option syntax two commas stand for one.
pub(super) fn escape(path: &std::path::Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[derive(Default)]
pub(super) struct Arguments(Vec<String>);

impl Arguments {
    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.0.push(name.to_string());
        self.0.push(value.to_string());
    }

    pub(super) fn flag(&mut self, name: &str) {
        self.0.push(name.to_string());
    }

    pub(super) fn into_words(self) -> Vec<String> {
        self.0
    }
}
