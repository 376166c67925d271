// imp._core: what this machine is, for `imp doctor` and `imp bench`.
#include <nanobind/stl/string.h>

#include "bindings/bind.h"
#include "core/memory_bandwidth.h"
#include "cpu/cpu_info.h"
#include "cpu/isa.h"
#include "exec/backend.h"

namespace imp::bindings {

void bind_machine(nb::module_& m) {
  m.def("cpu_name", &cpu::cpu_brand);
  m.def(
      "cpu_isa", [] { return std::string(cpu::isa_name(cpu::detect_isa())); },
      "The kernels that the CPU backend picks here: avx512, avx2 or reference");
  m.def("default_threads", &cpu::usable_cores, "Physical cores that this process may use");
  m.def("why_no_cuda", &why_no_cuda, "One line, empty where a CUDA device can be used");
  m.def("measure_read_bandwidth", &measure_read_bandwidth, nb::arg("num_threads"),
        nb::call_guard<nb::gil_scoped_release>(), "Bytes a second that `num_threads` read from memory");
}

}  // namespace imp::bindings
