#pragma once

namespace imp {

/// Bytes a second that `num_threads` threads read together from memory: the best of several passes over a buffer much
/// larger than any cache. Takes about half a second and 512 MiB.
double measure_read_bandwidth(int num_threads);

}  // namespace imp
