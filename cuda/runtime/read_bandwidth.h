#pragma once

namespace imp::cuda {

/// Bytes a second that a kernel which does nothing else reads from the memory of the current device: what the shares of
/// its limit in profiles and benchmarks are held against. Takes 2 GiB for some milliseconds; less where less is free.
double measure_read_bandwidth();

}  // namespace imp::cuda
