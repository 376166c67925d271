// Writes down which kernels a program launches: the names, as the compiler made them, go to $KERNEL_TRACE.<process>.
// The CUDA driver loads it into any program:
//
//   c++ -std=c++20 -O1 -shared -fPIC -I$CUDA/include tools/kernel_trace.cpp -o kernel_trace.so -ldl
//   CUDA_INJECTION64_PATH=$PWD/kernel_trace.so KERNEL_TRACE=/tmp/trace PROGRAM
//
// CUPTI is opened by name: no program links it. A launch that a graph records counts, and so does the replayed kernel.
#include <cupti.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

namespace {

struct Trace {
  std::mutex mutex;
  std::set<std::string> names;
};

Trace& trace() {
  static auto* all = new Trace;  // outlives whatever is launched at the end of the program
  return *all;
}

void on_call(void*, CUpti_CallbackDomain, CUpti_CallbackId id, const CUpti_CallbackData* data) {
  const bool launch =
      id == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel || id == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel_ptsz ||
      id == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx || id == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx_ptsz;
  if (!launch || data->callbackSite != CUPTI_API_ENTER || !data->symbolName) return;
  const std::lock_guard lock(trace().mutex);
  trace().names.insert(data->symbolName);
}

void write_down() {
  const char* path = std::getenv("KERNEL_TRACE");
  if (!path) return;
  std::FILE* file = std::fopen((std::string(path) + "." + std::to_string(::getpid())).c_str(), "w");
  if (!file) return;
  for (const std::string& name : trace().names) std::fprintf(file, "%s\n", name.c_str());
  std::fclose(file);
}

}  // namespace

extern "C" int InitializeInjection() {  // the name that the driver looks for
  void* library = nullptr;
  for (const char* name : {"libcupti.so.13", "libcupti.so.12", "libcupti.so"})
    if (!library) library = ::dlopen(name, RTLD_NOW);
  if (!library) {
    std::fprintf(stderr, "kernel_trace: no CUPTI: %s\n", ::dlerror());
    return 0;
  }
  const auto subscribe = reinterpret_cast<decltype(&cuptiSubscribe)>(::dlsym(library, "cuptiSubscribe"));
  const auto enable = reinterpret_cast<decltype(&cuptiEnableDomain)>(::dlsym(library, "cuptiEnableDomain"));
  CUpti_SubscriberHandle subscriber = nullptr;
  if (!subscribe || !enable ||
      subscribe(&subscriber, reinterpret_cast<CUpti_CallbackFunc>(on_call), nullptr) != CUPTI_SUCCESS ||
      enable(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API) != CUPTI_SUCCESS) {
    std::fprintf(stderr, "kernel_trace: CUPTI refuses\n");
    return 0;
  }
  std::atexit(write_down);
  return 1;
}
