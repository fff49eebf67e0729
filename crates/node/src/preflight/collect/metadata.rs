//! Whether a metadata service, or a disk in its stead, tells this machine what to do when it boots for the first time: by what
//! cloud-init's ds-identify and Ignition look at.

use std::fs;

use crate::machine::Machine;

/// What firmware says of the machine.
const DMI: &str = "/sys/class/dmi/id";
const FIELDS: [&str; 7] = [
    "sys_vendor",
    "product_name",
    "product_serial",
    "board_vendor",
    "bios_vendor",
    "bios_version",
    "chassis_asset_tag",
];
/// What is in one of these fields in a cloud, and the cloud. Written down from memory of ds-identify.
const CLOUDS: [(&str, &str); 25] = [
    ("amazon", "aws"),
    ("google", "gce"),
    ("7783-7084-3265-9085-8269-3286-77", "azure"),
    ("openstack", "openstack"),
    ("opentelekomcloud", "openstack"),
    ("sap ccloud", "openstack"),
    ("huaweicloud", "openstack"),
    ("huawei cloud", "openstack"),
    ("samsung cloud", "openstack"),
    ("ovhcloud", "openstack"),
    ("digitalocean", "digitalocean"),
    ("hetzner", "hetzner"),
    ("vultr", "vultr"),
    ("scaleway", "scaleway"),
    ("akamai", "akamai"),
    ("linode", "akamai"),
    ("upcloud", "upcloud"),
    ("alibaba", "aliyun"),
    ("tencent", "tencent"),
    ("exoscale", "exoscale"),
    ("oraclecloud", "oracle"),
    ("cloudstack", "cloudstack"),
    ("cloudsigma", "cloudsigma"),
    ("smartdc", "smartos"),
    ("yandex", "yandex"),
];
/// Disks and firmware's files with user-data.
const SEEDS: [&str; 7] = [
    "/dev/disk/by-label/cidata",
    "/dev/disk/by-label/CIDATA",
    "/dev/disk/by-label/config-2",
    "/dev/disk/by-label/CONFIG-2",
    "/dev/disk/by-label/CONTEXT",
    "/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config",
    "/sys/firmware/qemu_fw_cfg/by_name/opt/org.flatcar-linux/config",
];
/// What the old OS's cloud-init has found.
const CLOUD_ID: &str = "/run/cloud-init/cloud-id";

/// The cloud whose service there is, or the seed; nothing where there evidently is none; why that cannot be told.
pub(super) fn service(machine: &Machine) -> Result<Option<String>, String> {
    let text = |path: String| fs::read_to_string(machine.path(path)).ok();
    let fields: Vec<_> = FIELDS.iter().filter_map(|field| text(format!("{DMI}/{field}"))).collect();
    let told = fields.join("\n").to_ascii_lowercase();
    if let Some((_, cloud)) = CLOUDS.iter().find(|(word, _)| told.contains(word)) {
        return Ok(Some((*cloud).to_owned()));
    }
    let found = text(CLOUD_ID.to_owned()).unwrap_or_default();
    if !["", "none", "nocloud"].contains(&found.trim()) {
        return Ok(Some(found.trim().to_owned()));
    }
    if let Some(seed) = SEEDS.iter().find(|seed| machine.path(seed).exists()) {
        return Ok(Some((*seed).to_owned()));
    }
    if fields.is_empty() {
        return Err(format!("{DMI}, by which a cloud is known, says nothing"));
    }
    if told.contains("vmware") {
        return Err("VMware may give a machine user-data by its guest tools".into());
    }
    Ok(None)
}
