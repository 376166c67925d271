# The CUDA compiler as pip installs it: nvidia-cuda-nvcc and what it needs, in site-packages/nvidia/cu<major>. `make
# gpu-compiler` puts it into .venv.

# Sets CMAKE_CUDA_COMPILER to the one beside the Python that builds, where there is one.
function(imp_find_pip_cuda)
  set(python "${Python_EXECUTABLE}")
  if(NOT python)
    find_program(IMP_PYTHON NAMES python3 python)
    set(python "${IMP_PYTHON}")
  endif()
  if(NOT python)
    return()
  endif()
  execute_process(
    COMMAND "${python}" -c "import nvidia; print(';'.join(nvidia.__path__))"
    OUTPUT_VARIABLE folders OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  foreach(folder IN LISTS folders)
    file(GLOB compilers "${folder}/cu[0-9]*/bin/nvcc")
    foreach(compiler IN LISTS compilers)
      set(CMAKE_CUDA_COMPILER "${compiler}" CACHE FILEPATH "CUDA compiler" FORCE)
      set(CMAKE_CUDA_COMPILER "${compiler}" PARENT_SCOPE)
    endforeach()
  endforeach()
endfunction()

# There its library has no lib64 and no libcudart.so, which nvcc and CMake look for; imp links libcudart_static.a.
macro(imp_adapt_to_pip_cuda)
  cmake_path(GET CMAKE_CUDA_COMPILER PARENT_PATH pip_cuda_bin)
  cmake_path(GET pip_cuda_bin PARENT_PATH pip_cuda)
  if(EXISTS "${pip_cuda}/lib/libcudart_static.a" AND NOT EXISTS "${pip_cuda}/lib64")
    string(APPEND CMAKE_CUDA_FLAGS " -L${pip_cuda}/lib")
    set(CUDA_CUDART "${pip_cuda}/lib/libcudart_static.a")
  endif()
endmacro()
