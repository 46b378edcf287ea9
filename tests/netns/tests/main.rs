//! The real kernel, the real netd, the real rnet, in private namespaces. Needs root; says so when it is not.
#![allow(clippy::unwrap_used)]

mod attach;
mod attach_errors;
mod bridge;
mod broken;
mod capture;
mod cni;
mod cni_rnet;
mod concurrency;
mod conflist;
mod crash;
mod demo;
mod dhcp;
mod dns;
mod docker;
mod doctor;
mod explain;
mod hook;
mod lab;
mod metrics;
mod network;
mod network_options;
mod ping_all;
mod privileges;
mod publish;
mod rootless;
mod sandbox;
mod stats;
mod ui;
