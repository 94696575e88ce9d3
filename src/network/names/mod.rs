//! stub
#![allow(missing_docs)]
use super::NetworkError;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
#[derive(Debug)]
pub struct Names;
#[derive(Debug)]
pub struct Service;
impl Names {
    pub fn add(&self, _: &str, _: &str, _: &[String], _: &[IpAddr]) {}
    pub fn remove(&self, _: &str) {}
}
impl Service {
    pub fn new() -> Self {
        Service
    }
    pub fn table(&self) -> &Names {
        &Names
    }
    pub fn close(&self, _: &str) {}
    pub fn serve(
        &self,
        _: &str,
        _: Vec<String>,
        _: bool,
        _: OwnedFd,
        _: OwnedFd,
    ) -> Result<(), NetworkError> {
        Ok(())
    }
}
