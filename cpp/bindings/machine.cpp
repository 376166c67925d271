// imp._core: what this machine is, for `imp doctor` and `imp bench`.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "bindings/bind.h"
#include "core/memory_bandwidth.h"
#include "cpu/cpu_info.h"
#include "cpu/isa.h"
#include "engine/engine.h"
#include "exec/backend.h"

namespace imp::bindings {

void bind_machine(nb::module_& m) {
  m.def("cpu_name", &cpu::cpu_brand);
  m.def(
      "cpu_isa", [] { return std::string(cpu::isa_name(cpu::detect_isa())); },
      "The kernels that the CPU backend picks here: avx512, avx2 or reference");
  m.def("default_threads", &cpu::usable_cores, "Physical cores that this process may use");
  m.def("why_no_cuda", &why_no_cuda, nb::arg("device") = 0, "One line, empty where that CUDA device can be used");
  m.def("cuda_device_of", &cuda_device_of, nb::arg("device"),
        "The CUDA device that a text like \"cuda:1\" names; None for \"auto\" and \"cpu\"");
  nb::class_<CudaDevice>(m, "CudaDevice", "A CUDA device of this machine; versions are 1000 * major + 10 * minor")
      .def_ro("index", &CudaDevice::index)
      .def_ro("name", &CudaDevice::name)
      .def_ro("major", &CudaDevice::major)
      .def_ro("minor", &CudaDevice::minor)
      .def_ro("driver_version", &CudaDevice::driver_version)
      .def_ro("runtime_version", &CudaDevice::runtime_version)
      .def_ro("architectures", &CudaDevice::architectures)
      .def_ro("total_bytes", &CudaDevice::total_bytes)
      .def_ro("free_bytes", &CudaDevice::free_bytes)
      .def_ro("why_not", &CudaDevice::why_not);
  m.def("cuda_devices", &cuda_devices, nb::call_guard<nb::gil_scoped_release>(),
        "The CUDA devices here; none where the build or the driver has none");
  m.def("measure_gpu_read_bandwidth", &cuda_read_bandwidth, nb::arg("device") = 0,
        nb::call_guard<nb::gil_scoped_release>(),
        "Bytes a second that a kernel reads from the memory of a CUDA device");
  m.def("measure_read_bandwidth", &measure_read_bandwidth, nb::arg("num_threads"),
        nb::call_guard<nb::gil_scoped_release>(), "Bytes a second that `num_threads` read from memory");
}

}  // namespace imp::bindings
