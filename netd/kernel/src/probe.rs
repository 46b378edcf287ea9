#[derive(Debug)] pub struct Probe; #[derive(Debug)] pub struct ProbeTiming; pub fn probe() {} pub fn announce() {}
