//! The kernel's modules: which ones a module needs, and in which order they are loaded.

/// What a `modules.dep` says.
#[derive(Debug)]
pub(super) struct Modules<'a> {
    lines: Vec<(&'a str, &'a str)>,
}

impl<'a> Modules<'a> {
    /// Reads what `depmod` wrote.
    pub(super) fn parse(text: &'a str) -> Self {
        Self { lines: text.lines().filter_map(|line| line.split_once(':')).collect() }
    }

    /// The files of these modules and of those that they need, in an order in which they can be loaded. Names that the
    /// kernel has no module for are part of it, or were never there: the system shows which.
    pub(super) fn in_order(&self, wanted: &[&str]) -> Vec<&'a str> {
        let mut order: Vec<&str> = Vec::new();
        for name in wanted {
            let Some((file, needs)) = self.lines.iter().find(|(file, _)| module_name(file) == plain(name)) else {
                continue;
            };
            // depmod writes what has to be loaded first last, and all of it.
            for file in needs.split_whitespace().rev().chain([*file]) {
                if !order.contains(&file) {
                    order.push(file);
                }
            }
        }
        order
    }
}

/// A module's name: in file names `-` and `_` are used alike.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    plain(name.split('.').next().unwrap_or(name))
}

fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/net/virtio-net.ko: kernel/net/failover.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/failover.ko:
";

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let order = Modules::parse(DEP).in_order(&["virtio", "virtio_net"]);
        assert_eq!(
            order,
            [
                "kernel/drivers/virtio/virtio_ring.ko",
                "kernel/drivers/virtio/virtio.ko",
                "kernel/net/failover.ko",
                "kernel/drivers/net/virtio-net.ko"
            ]
        );
    }

    #[test]
    fn what_is_part_of_the_kernel_is_not_loaded() {
        assert!(Modules::parse(DEP).in_order(&["nvme"]).is_empty());
    }
}
